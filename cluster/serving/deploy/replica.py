"""What Ray Serve runs in each replica: the application around models that can be exchanged while it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from fastapi import FastAPI
from ray import serve

from cluster.errors import one_line
from cluster.machine.ray_internals import keep_calls_of_stopping_replica, keep_replica_on_loopback
from cluster.machine.session import is_on_loopback
from cluster.serving.config import ServingConfig
from cluster.serving.deploy.departure import until_stopping
from cluster.serving.deploy.haproxy import is_before_replicas
from cluster.serving.live.capacity import PYTHON_PROXY_COST
from cluster.serving.models import ServedModels
from cluster.serving.web.app import build_app
from ww_models import BundleError, load_bundle

logger = logging.getLogger(__name__)

APP_NAME = "wave-wizard"
# Of the time until Serve kills the replica: for closing what is still open at the end.
_CLOSING_S = 3.0
_LOOK_EVERY_S = 5.0


class Selection(TypedDict):
    """Serve's user_config, which can change while replicas run.

    bundles: folders, the default one first; none of them: what is in force.
    """

    bundles: list[str]


@serve.ingress()
class DenoiseServer:
    """One replica. Serve calls `reconfigure` before the first request and at each promotion."""

    def __init__(self, config: ServingConfig, in_force: Callable[[], Path] | None = None) -> None:
        """in_force: the bundle to serve, asked for again and again; without it Serve's user_config names them."""
        if is_on_loopback():
            keep_replica_on_loopback()
        self._config = config
        self._models = ServedModels(precision=config.precision)
        self._app = build_app(self._models, config, send_request_id=False)
        # Serve takes from a client whatever comes, however much of it waits here, HAProxy or not.
        self._app.state.live.holds_callers = False
        if is_before_replicas():
            keep_calls_of_stopping_replica()
        else:
            most = config.scaling.max_replicas or serve.get_replica_context().world_size
            self._app.state.live.connection_cost = PYTHON_PROXY_COST * most
        self._departure: asyncio.Task[None] | None = None
        self._in_force = in_force
        self._following: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def reconfigure(self, selection: Selection) -> None:
        """Serves these bundles from now on; what has begun with others ends with them.

        A bundle that cannot be loaded ends a replica that starts; one that runs keeps what it has, since
        ending it would cut off its calls.
        """
        if self._departure is None:
            self._departure = asyncio.create_task(self._depart())
        try:
            bundles = [Path(bundle) for bundle in selection["bundles"]]
            if self._in_force is None:
                await self._serve(bundles)
            else:
                there = await asyncio.to_thread(self._in_force)
                await self._serve(bundles or [there])
                if self._following is None:
                    self._following = asyncio.create_task(self._follow(self._in_force, there))
        except (BundleError, ValueError, OSError):  # the last: a store that does not answer
            if not self._models.all():
                raise
            logger.exception("not promoted: still serving %s", await self.served())

    async def _serve(self, bundles: Sequence[Path]) -> None:
        await asyncio.to_thread(self._models.replace, bundles, prepare=self._app.state.live.prepare)
        self._app.state.files.synchronise()

    async def _follow(self, in_force: Callable[[], Path], tried: Path) -> None:
        """Serves what comes into force; what cannot be served is said once, and what was served is served on."""
        said = ""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                wanted = await asyncio.to_thread(in_force)
                if wanted != tried:
                    tried = wanted
                    await self._serve([wanted])
                said = ""
            except Exception as error:  # whatever it is, calls go on
                if one_line(error) != said:
                    said = one_line(error)
                    logger.error("%s; still serving %s", said, await self.served())

    async def check(self, bundles: Sequence[str]) -> str:
        """What is wrong with bundles, as this replica sees them; "" for nothing. Nothing changes."""
        try:
            for bundle in bundles:
                await asyncio.to_thread(load_bundle, bundle)
        except BundleError as error:
            return str(error)
        return ""

    async def served(self) -> list[tuple[str, str]]:
        """(id, bundle) of the models, the default one first."""
        return [(model.id, str(model.bundle)) for model in self._models.all()]

    async def _depart(self) -> None:
        reason = await until_stopping(APP_NAME)
        scaling = self._config.scaling
        seconds = scaling.drain_s if reason == "redeploy" else min(scaling.shutdown_s, scaling.drain_s)
        await self._app.state.live.drain(seconds, reason)


def kill_after_s(config: ServingConfig) -> float:
    """When Serve kills a replica that it stops, whatever is still going on in it."""
    return config.scaling.drain_s + _CLOSING_S
