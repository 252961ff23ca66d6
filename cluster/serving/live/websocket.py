"""Live calls over WebSocket: GET /v1/audio/denoise/stream (docs/serving.md has the protocol).

live = LiveCalls(app, models, Stepper(), config.live, admitted=keys.admitted)
await live.drain(20)        # before the process ends
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from fastapi import FastAPI
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from cluster.monitoring.metrics import LIVE_CALLS, LIVE_ERRORS, LIVE_LOAD
from cluster.serving.config import LiveConfig
from cluster.serving.errors import ApiError, busy
from cluster.serving.live.admission import RETRY_AFTER_S, Admission, Place
from cluster.serving.live.call import LiveCall, error_message
from cluster.serving.live.capacity import CONNECTION_COST, Capacity, given_capacity, measure_capacity
from cluster.serving.live.protocol import (
    PATH,
    SUBPROTOCOL,
    Close,
    ProtocolError,
    as_protocol_error,
    parse_options,
)
from cluster.serving.live.stepper import Stepper
from cluster.serving.models import ServedModel, ServedModels

_POLL_S = 0.05

Admitted = Callable[[Scope], AbstractContextManager[object]]


class LiveCalls:
    """All live calls of an application, to which it adds the endpoint: lets them in, counts them, sends them away.

    Measures first how many streams of each model this machine carries.

    admitted: holds for the length of a call; raises ApiError for a caller who may not.
    holds_callers: whether the server takes no more from a caller while nothing is received from it, so that TCP holds
        the caller back, as uvicorn does; elsewhere a call that is sent too much ends.
    connection_cost: of a hop's way in and out, see `capacity.py`.
    """

    def __init__(
        self,
        app: FastAPI,
        models: ServedModels,
        stepper: Stepper,
        config: LiveConfig,
        admitted: Admitted = nullcontext,
    ) -> None:
        self._models, self._stepper, self._config, self._admitted = models, stepper, config, admitted
        self._calls: set[LiveCall] = set()
        self._is_draining = False
        self.holds_callers, self.connection_cost = True, CONNECTION_COST
        self._measuring = threading.Lock()
        self._capacities: weakref.WeakKeyDictionary[ServedModel, Capacity] = weakref.WeakKeyDictionary()
        self._admission = Admission(config.max_load, stepper.overdue_s)
        stepper.on_step = self._note_step
        for model in models.all():
            self.prepare(model)
        self._publish()
        app.add_api_websocket_route(PATH, self.serve)

    @property
    def num_calls(self) -> int:
        return len(self._calls)

    @property
    def load(self) -> float:
        """The share of what this process may carry that its calls take, 0 to 1."""
        return sum(call.options.num_channels / self.max_streams(call.model) for call in self._calls)

    def prepare(self, model: ServedModel) -> None:
        """Measures how many streams of this model may run, before anybody calls. From any thread."""
        if model.engine is not None:
            self.capacity(model)

    def capacity(self, model: ServedModel) -> Capacity:
        """How many streams of this model may run if nothing else does; measured once. From any thread."""
        if (known := self._capacities.get(model)) is not None:
            return known
        assert model.engine is not None
        config = self._config
        with self._measuring:
            if model not in self._capacities:
                self._capacities[model] = (
                    given_capacity(model.engine, config.max_streams, config.max_load)
                    if config.max_streams
                    else measure_capacity(model.engine, config.max_load, self.connection_cost)
                )
            return self._capacities[model]

    def max_streams(self, model: ServedModel) -> int:
        return self.capacity(model).max_streams

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, from the handshake to its end."""
        offered = websocket.scope.get("subprotocols", [])
        try:
            # Accepted first, then refused with a reason: a browser learns nothing of a handshake that failed.
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            try:
                with self._admitted(websocket.scope):
                    await self._run_call(websocket)
            except (ApiError, ProtocolError) as error:
                refusal = as_protocol_error(error) if isinstance(error, ApiError) else error
                LIVE_ERRORS.add(code=refusal.code)
                await websocket.send_text(error_message(refusal, uuid.uuid4().hex))
                await websocket.close(refusal.close)
        except WebSocketDisconnect:
            return

    async def _run_call(self, websocket: WebSocket) -> None:
        query = dict(websocket.query_params)
        model = self._models.get(query.get("model"))
        if model.engine is None:
            what = f"the model {model.id} needs the whole clip; send it files, or take another model"
            raise ProtocolError("not_live", what, Close.REFUSED)
        options = parse_options(query, model.sample_rate, self._config)
        if model not in self._capacities:  # it came without being prepared
            await asyncio.to_thread(self.capacity, model)
        max_streams = self.max_streams(model)
        share = options.num_channels / max_streams
        place = Place(self._admission, share, has_begun=not self._config.follows_load)
        self._check_room(place)
        call = LiveCall(
            websocket, model, options, self._config, self._stepper, max_streams, self.holds_callers, place
        )
        self._calls.add(call)
        self._publish()
        try:
            await call.run()
        finally:
            self._calls.discard(call)
            self._publish()
            place.end()

    def _publish(self) -> None:
        LIVE_CALLS.set(self.num_calls)
        LIVE_LOAD.set(self.load)

    def _check_room(self, place: Place) -> None:
        """For as many as were measured to fit, if steps take now what they took then; `Place.begin` is the rest."""
        if self._is_draining:
            raise ProtocolError("draining", "this server is going away; connect again", Close.GOING_AWAY)
        if self.load + place.share > 1 + 1e-9:
            what = f"{self.num_calls} sessions are live, as many as this machine carries in real time"
            raise busy(f"{what}; try again in {RETRY_AFTER_S} s", RETRY_AFTER_S)
        self._admission.check(place.share)

    def _note_step(self, model: ServedModel, num_channels: int, waited_s: float, worked_s: float) -> None:
        if (capacity := self._capacities.get(model)) is not None:
            hop_s, expected_s = capacity.hop_s, capacity.step_s(num_channels)
            self._admission.note_step(waited_s / hop_s, worked_s / hop_s, expected_s / hop_s)

    async def drain(self, seconds: float, reason: str = "shutdown") -> None:
        """Lets no more calls in, notifies those there are, and returns when they are gone or time is up.

        reason: "shutdown" or "redeploy". Calls that are there at the end are closed with 1001.
        """
        self._is_draining = True
        for call in list(self._calls):
            call.send({"type": "draining", "reason": reason, "seconds": seconds})
        await self._wait_until_gone(seconds)
        for call in list(self._calls):
            call.close(Close.GOING_AWAY)
        await self._wait_until_gone(min(1.0, self._config.stuck_s))

    async def _wait_until_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._calls and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
