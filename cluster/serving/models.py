"""The models that a replica serves: loaded, exported to the CPU engine and warmed up before the first caller."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cluster.enhancement import measure_real_time_factor
from cluster.serving.config import EVIDENCE_FILE
from cluster.serving.errors import ApiError
from cluster.sound.streams import recording_engine
from ww_models import BundleInfo, StreamBatch, load_bundle, read_bundle_info
from ww_models.streaming.engine import StepEngine
from ww_models.streaming.onnx_engine import OnnxEngine
from ww_models.streaming.onnx_export import Precision

FILE_STEP_S = 0.128
_NUM_STEPS = 9  # that are timed


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """One bundle in service.

    engine: what runs its streams; None for a model that needs the whole clip and cannot run live.
    file_engine: what denoises files, in larger steps, which take a fraction of the time; None likewise.
    real_time_factor: seconds of computing per second of audio for one stream, measured at the start.
    """

    id: str
    bundle: Path
    info: BundleInfo
    engine: OnnxEngine | None
    file_engine: OnnxEngine | None
    sample_rate: int
    real_time_factor: float

    @property
    def evidence(self) -> str | None:
        """Where it stands why this model was put into force; None if it was served without."""
        path = self.bundle / EVIDENCE_FILE
        return str(path) if path.exists() else None


class ServedModels:
    """Models by id. A caller keeps the one it began with: after `replace` that lives on until its last user is done.

    Loading takes seconds (weights, export, check, warm-up). Raises BundleError for a damaged bundle.
    """

    def __init__(self, bundles: Sequence[Path] = (), precision: Precision = "fp32") -> None:
        """bundles: none where `replace` says later what to serve, before anybody asks."""
        self._precision: Precision = precision
        self._models: dict[str, ServedModel] = {}
        if bundles:
            self.replace(bundles)

    @property
    def default(self) -> ServedModel:
        """The first bundle's, for callers who name none."""
        return self.all()[0]

    def all(self) -> list[ServedModel]:
        """The default one first."""
        return list(self._models.values())

    def get(self, model_id: str | None) -> ServedModel:
        """The model of that id, or the default. ApiError 404 names those that there are."""
        models = self._models
        if (model_id := model_id or next(iter(models), "")) not in models:
            known = ", ".join(models)
            raise ApiError(404, "unknown_model", f"no model is called {model_id!r}; there are: {known}")
        return models[model_id]

    def replace(
        self, bundles: Sequence[Path], prepare: Callable[[ServedModel], object] = lambda model: None
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
        for model in models.values():
            if model is not self._models.get(model.id):
                prepare(model)
        self._models = models


def load_model(bundle: Path, precision: Precision = "fp32") -> ServedModel:
    """Loads a bundle, exports its step where it has one, and measures how fast that is."""
    model, info = load_bundle(bundle), read_bundle_info(bundle)
    engine = file_engine = None
    if model.latency_samples is None:
        real_time_factor = measure_real_time_factor(model, clip_s=1.0)
    else:
        engine = OnnxEngine.from_model(model, precision)
        file_engine = recording_engine(model, FILE_STEP_S, precision)
        real_time_factor = measure_step_s(engine, 1) * engine.sample_rate / engine.hop_samples
    return ServedModel(
        id=info.id,
        bundle=Path(bundle),
        info=info,
        engine=engine,
        file_engine=file_engine,
        sample_rate=model.sample_rate,
        real_time_factor=real_time_factor,
    )


def measure_step_s(engine: StepEngine, num_streams: int) -> float:
    """Seconds that one step of so many streams takes, with a hop for each; a median."""
    streams = StreamBatch(engine, num_streams)
    rows = [streams.join() for _ in range(num_streams)]
    hop = np.random.default_rng(0).normal(scale=0.1, size=engine.hop_samples).astype(np.float32)

    def step() -> None:
        for row in rows:
            streams.feed(row, hop)
        streams.advance()

    return median_s(step, _NUM_STEPS)


def median_s(work: Callable[[], object], num_times: int) -> float:
    """Seconds that it takes."""
    times_s = []
    for _ in range(num_times):
        start = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - start)
    return statistics.median(times_s)
