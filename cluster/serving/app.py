"""The denoiser over HTTP: a plain ASGI application, which Ray Serve runs in each replica (`deployment.py`).

POST /v1/audio/denoise   a recording in, the same recording denoised out: same rate, channels and length
GET  /v1/models          what is served
GET  /healthz            whether this process answers
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from fastapi import FastAPI, Request, Response

from cluster.enhancement import enhance_audio, measure_real_time_factor
from cluster.serving.audio import MEDIA_TYPES, decode, encode
from cluster.serving.config import ServingConfig
from cluster.serving.errors import ApiError, RequestIdMiddleware, install_error_handlers
from cluster.serving.upload import Upload, read_upload, request_body_schema
from ww_models import BundleInfo, Denoiser

T = TypeVar("T")


class Engine:
    """One model and the few threads that may use it, so that the event loop stays free to answer.

    Every request holds a slot from its first byte until its thread is done with it, even when the caller has
    left; there are `max_pending` of them, which bounds the memory that requests can take.
    """

    def __init__(self, model: Denoiser, info: BundleInfo, config: ServingConfig) -> None:
        self.model, self.info, self.config = model, info, config
        torch.set_num_threads(config.torch_threads)
        self.real_time_factor = measure_real_time_factor(model, clip_s=1.0)  # warms up, too
        self._threads = ThreadPoolExecutor(config.num_workers, thread_name_prefix="denoise")
        self._num_pending = 0

    def take_slot(self) -> None:
        """Raises a 503 if as many requests are pending as may be."""
        if self._num_pending >= self.config.max_pending:
            message = (
                f"busy: {self._num_pending} requests are pending, as many as may be; try again in a second"
            )
            raise ApiError(503, "busy", message, {"Retry-After": "1"})
        self._num_pending += 1

    def free_slot(self) -> None:
        self._num_pending -= 1

    async def run(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread and frees the slot when it is over, not when the caller gives up."""
        loop = asyncio.get_running_loop()
        future = self._threads.submit(work)

        def on_done(_: Future) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self.free_slot)

        future.add_done_callback(on_done)
        return await asyncio.wrap_future(future)

    def denoise(self, upload: Upload) -> Reply:
        """Decodes, enhances and encodes one recording, in the thread that calls."""
        clock = [time.perf_counter()]
        recording = decode(upload.data, self.config)
        clock.append(time.perf_counter())
        enhanced_TC = enhance_audio(
            self.model, recording.samples, recording.sample_rate, upload.options.strength
        )
        clock.append(time.perf_counter())
        enhanced = dataclasses.replace(recording, samples=enhanced_TC)
        body = encode(enhanced, upload.options.response_format)
        clock.append(time.perf_counter())
        steps_s = {name: clock[i + 1] - clock[i] for i, name in enumerate(("decode", "enhance", "encode"))}
        return Reply(body=body, audio_s=recording.seconds, steps_s=steps_s)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """body: the file; audio_s: its length; steps_s: seconds that each step took."""

    body: bytes
    audio_s: float
    steps_s: dict[str, float]

    def headers(self) -> dict[str, str]:
        timing = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in self.steps_s.items())
        return {
            "X-Real-Time-Factor": f"{sum(self.steps_s.values()) / self.audio_s:.4f}",
            "Server-Timing": timing,
        }


def build_app(
    model: Denoiser, info: BundleInfo, config: ServingConfig, *, send_request_id: bool = True
) -> FastAPI:
    """The application around one loaded bundle; any ASGI server can run it.

    send_request_id: off where the server before it adds X-Request-Id to replies by itself, as Ray Serve does.
    """
    engine = Engine(model, info, config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(
        title="Wave Wizard", description="Speech in noise goes in, speech comes out.", lifespan=lifespan
    )
    install_error_handlers(app)
    app.add_middleware(RequestIdMiddleware, send_header=send_request_id)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, list[dict[str, Any]]]:
        return {"data": [describe_model(engine)]}

    @app.post(
        "/v1/audio/denoise",
        openapi_extra=request_body_schema(),
        response_class=Response,
        responses={200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}}},
    )
    async def denoise(request: Request) -> Response:
        """Returns the recording denoised, with the sample rate, channels and length that it came with."""
        engine.take_slot()
        try:
            upload = await read_upload(request, config)
        except BaseException:
            engine.free_slot()
            raise
        reply = await engine.run(lambda: engine.denoise(upload))
        media_type = MEDIA_TYPES[upload.options.response_format]
        return Response(reply.body, media_type=media_type, headers={"X-Model-Id": info.id, **reply.headers()})

    return app


def describe_model(engine: Engine) -> dict[str, Any]:
    """One entry of /v1/models. real_time_factor: seconds of computing per second of audio, at start."""
    model, info = engine.model, engine.info
    return {
        "id": info.id,
        "architecture": info.architecture,
        "sample_rate": model.sample_rate,
        "latency_ms": model.latency_ms,
        "num_parameters": model.num_parameters,
        "metrics": info.metrics,
        "real_time_factor": engine.real_time_factor,
    }
