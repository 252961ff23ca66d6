"""The models that a replica serves, each loaded, exported to the CPU engine and warmed up before anyone hears it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cluster.enhancement import measure_real_time_factor
from cluster.serving.errors import ApiError
from ww_models import BundleInfo, load_bundle, read_bundle_info, stream
from ww_models.streaming.onnx_engine import OnnxEngine
from ww_models.streaming.onnx_export import Precision

# Longer ones gain little more, and their graphs, in which a recurrent layer is there once for each row, are large.
FILE_STEP_S = 0.128


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """One bundle in service.

    engine: what runs its streams; None for a model that needs the whole clip and cannot run live.
    file_engine: what denoises files, in larger steps, which take a fraction of the time; None likewise.
    latency_samples: at `sample_rate` (Hz), the model's own; None without an engine.
    real_time_factor: seconds of computing per second of audio for one stream, measured at the start.
    """

    id: str
    bundle: Path
    info: BundleInfo
    engine: OnnxEngine | None
    file_engine: OnnxEngine | None
    latency_samples: int | None
    sample_rate: int
    real_time_factor: float


class ServedModels:
    """Models by id. Whoever works with one holds it: after `replace` it lives on until the last of them is done.

    Loading takes seconds (weights, export, check, warm-up). Raises BundleError for a damaged bundle, ValueError
    for a default that is not among them.
    """

    def __init__(
        self, bundles: Sequence[Path] = (), default: str | None = None, precision: Precision = "fp32"
    ) -> None:
        """bundles: none where `replace` says later what to serve, before anybody asks.

        default: the id of the model for callers who name none; the first bundle's unless given.
        """
        self._precision: Precision = precision
        self._models: dict[str, ServedModel] = {}
        self._default_id = ""
        if bundles:
            self.replace(bundles, default)

    @property
    def default(self) -> ServedModel:
        return self._models[self._default_id]

    def all(self) -> list[ServedModel]:
        return list(self._models.values())

    def get(self, model_id: str | None) -> ServedModel:
        """The model of that id, or the default. ApiError 404 names those that there are."""
        models, default_id = self._models, self._default_id
        found = models.get(model_id or default_id)
        if found is None:
            known = ", ".join(models)
            raise ApiError(404, "unknown_model", f"no model is called {model_id!r}; there are: {known}")
        return found

    def replace(
        self,
        bundles: Sequence[Path],
        default: str | None = None,
        prepare: Callable[[ServedModel], object] = lambda model: None,
    ) -> None:
        """Serves these bundles from now on, all or none of them; one that is served already is not loaded again.

        prepare: is called with each that is new before anybody can find it.
        """
        if not bundles:
            raise ValueError("no bundle to serve; name at least one")
        models: dict[str, ServedModel] = {}
        for bundle in bundles:
            info = read_bundle_info(bundle)
            models[info.id] = self._models.get(info.id) or load_model(bundle, self._precision)
        if default is not None and default not in models:
            raise ValueError(f"the default model {default!r} is not served; there are: {', '.join(models)}")
        for model in models.values():
            if model is not self._models.get(model.id):
                prepare(model)
        # The models first: between the two lines both the old default and the new one can be found.
        self._models = {**self._models, **models}
        self._default_id = default or next(iter(models))
        self._models = models


def load_model(bundle: Path, precision: Precision = "fp32") -> ServedModel:
    """Loads a bundle, exports its step where it has one, and measures how fast that is."""
    model, info = load_bundle(bundle), read_bundle_info(bundle)
    engine = file_engine = None
    if model.latency_samples is not None:
        engine = OnnxEngine.from_model(model, precision)
        num_hops = max(1, round(FILE_STEP_S * model.sample_rate / model.hop_samples))
        file_engine = OnnxEngine.from_model(model, precision, num_hops)
    return ServedModel(
        id=info.id,
        bundle=Path(bundle),
        info=info,
        engine=engine,
        file_engine=file_engine,
        latency_samples=model.latency_samples,
        sample_rate=model.sample_rate,
        real_time_factor=(
            measure_real_time_factor(model, clip_s=1.0) if engine is None else stream_real_time_factor(engine)
        ),
    )


def stream_real_time_factor(engine: OnnxEngine, num_hops: int = 30) -> float:
    """Seconds of computing per second of audio of one stream, hop by hop; the median hop."""
    rng = np.random.default_rng(0)
    streamer = stream(engine)
    times_s = []
    for _ in range(num_hops):
        hop = rng.normal(scale=0.1, size=(1, engine.hop_samples)).astype(np.float32)
        start = time.perf_counter()
        streamer.feed(hop)
        times_s.append(time.perf_counter() - start)
    return statistics.median(times_s) * engine.sample_rate / engine.hop_samples
