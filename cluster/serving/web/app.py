"""The denoiser over HTTP and WebSocket: a plain ASGI application, which Ray Serve runs in each replica.

POST /v1/audio/denoise         a recording in, the same recording denoised out: same rate, channels and length
GET  /v1/audio/denoise/stream  a WebSocket: a live call (`websocket.py`)
GET  /v1/models                what is served
GET  /healthz, /readyz         whether this process answers; whether it is ready for work
GET  /                         the live page (`page.py`)
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from cluster.monitoring.metrics import FILES
from cluster.serving.addresses import is_loopback
from cluster.serving.auth import KeyRing
from cluster.serving.config import ServingConfig
from cluster.serving.errors import busy
from cluster.serving.files.response import DenoiseResponse
from cluster.serving.files.service import FileService
from cluster.serving.files.upload import read_upload, request_body_schema
from cluster.serving.live.stepper import Stepper
from cluster.serving.live.websocket import LiveCalls
from cluster.serving.models import ServedModel, ServedModels
from cluster.serving.web.error_replies import install_error_handlers
from cluster.serving.web.observability import RequestLog
from cluster.serving.web.openapi import DESCRIPTION, ERRORS, MODELS_EXAMPLE
from cluster.serving.web.origins import OriginGuard
from cluster.serving.web.page import add_page
from cluster.sound.encoder import MEDIA_TYPES


class Places:
    """For files in one replica: there are so many, taken from a request's first byte to its reply's last."""

    def __init__(self, num_places: int) -> None:
        self._num_places, self.num_taken = num_places, 0

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Raises a 503 if all are taken."""
        if self.num_taken >= self._num_places:
            raise busy(f"busy: {self.num_taken} files are being worked on, as many as may be")
        self._change(+1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        self.num_taken += by
        FILES.set(self.num_taken)


def build_app(models: ServedModels, config: ServingConfig, *, send_request_id: bool = True) -> FastAPI:
    """The application around loaded models; any ASGI server can run it. Returns once it can work.

    send_request_id: off where the server before it adds X-Request-Id to replies by itself, as Ray Serve does.
    """
    files = FileService(models, config)
    keys, places, stepper = KeyRing(config.api_keys), Places(config.max_pending), Stepper()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        stepper.close()
        files.close()

    app = FastAPI(title="Wave Wizard", description=DESCRIPTION, lifespan=lifespan)
    app.state.files, app.state.places = files, places
    install_error_handlers(app)
    _add_middleware(app, config, send_request_id)
    _add_health(app, models, files)

    @app.get("/v1/models", responses={200: MODELS_EXAMPLE})
    async def list_models(request: Request) -> dict[str, Any]:
        """The models that are served, the default one first."""
        with keys.admitted(request.scope):
            return {"data": [describe_model(model) for model in models.all()]}

    @app.post(
        "/v1/audio/denoise",
        openapi_extra=request_body_schema(),
        response_class=Response,
        responses={200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}}, **ERRORS},
    )
    async def denoise(request: Request) -> Response:
        """Returns the recording denoised, with the sample rate, channels and length that it came with."""
        async with contextlib.AsyncExitStack() as held:
            request.state.facts["key"] = held.enter_context(keys.admitted(request.scope))
            held.enter_context(places.taken())
            named = request.query_params.get("model")
            model = models.get(named)  # before the upload: what begins with a model ends with it
            upload = await read_upload(request, config)
            held.callback(upload.audio.close)
            if upload.options.model != named:  # the form wins
                model = models.get(upload.options.model)
            return DenoiseResponse(files, upload, model, config, held.pop_all())

    files.wait_until_ready()  # before it is measured how many live calls fit
    app.state.live = LiveCalls(app, models, stepper, config.live, keys.admitted)
    add_page(app)
    _answer_head(app)
    return app


def describe_model(model: ServedModel) -> dict[str, Any]:
    """One entry of /v1/models. real_time_factor: seconds of computing per second of audio, at start."""
    info = model.info
    return {
        "id": model.id,
        "architecture": info.architecture,
        "sample_rate": model.sample_rate,
        "latency_ms": info.latency_ms,
        "num_parameters": info.num_parameters,
        "licence": info.licence,
        "metrics": info.metrics,
        "real_time_factor": model.real_time_factor,
        "evidence": model.evidence,
    }


def _add_health(app: FastAPI, models: ServedModels, files: FileService) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """All models are loaded, warmed up and faster than real time; else 503, saying what is missing."""
        files.synchronise()  # starts what has died
        slow = [model.id for model in models.all() if model.real_time_factor >= 1]
        if slow:
            raise busy(f"slower than real time on this machine: {', '.join(slow)}", code="not_ready")
        if not files.is_ready():
            raise busy("the processes for files are starting", code="not_ready")
        return {"status": "ready"}


def _answer_head(app: FastAPI) -> None:
    """HEAD, with which monitors and proxies look, wherever there is a GET; the server leaves the body out."""
    for route in list(app.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def _add_middleware(app: FastAPI, config: ServingConfig, send_request_id: bool) -> None:
    """From the inside out: the last one added sees a request first."""
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=[
                "X-Request-Id",
                "X-Model-Id",
                "X-Real-Time-Factor",
                "X-Clipped-Db",
                "Server-Timing",
            ],
        )
    is_local = is_loopback(config.host) and not config.api_keys
    app.add_middleware(OriginGuard, allowed=config.allowed_origins, is_local=is_local)
    app.add_middleware(RequestLog, send_id=send_request_id)
