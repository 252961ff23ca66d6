"""Every metric that this system publishes beside Ray's own; they stand at the Prometheus endpoint of each Ray node.

Whoever knows a value calls `add`, `set` or `observe` here, seldom: once per interval of logging, not once per step.
Ray writes `ray_` before each name. docs/monitoring.md has this list as a table.

Ray forgets a gauge that is not set again within two of its reports (20 s). So what was set here is set again and again,
by a thread, until this process ends or leaves its Ray: what Prometheus sees of a gauge is what lives.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
import time
from typing import Any, ClassVar

_SET_AGAIN_S = 5.0  # half of the time between two reports of Ray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """name: without Ray's prefix. labels: what values are told apart by; each combination is a series of its own."""

    kind: ClassVar[str]
    name: str
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def published_name(self) -> str:
        """As Prometheus has it."""
        return f"ray_{self.name}"

    def _options(self) -> dict[str, Any]:
        return {}

    @functools.cached_property
    def _of_ray(self) -> Any:
        from ray.util import metrics

        kind = getattr(metrics, self.kind.capitalize())
        return kind(self.name, description=self.meaning, tag_keys=self.labels, **self._options())

    def _publish(self, method: str, value: float, labels: dict[str, str]) -> None:
        if _is_in_ray():
            getattr(self._of_ray, method)(value, tags=labels)


def _is_in_ray() -> bool:
    ray = sys.modules.get("ray")  # an endpoint without Ray need not load it, and publishes nothing
    return bool(ray and ray.is_initialized())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counter(Metric):
    kind = "counter"

    def add(self, value: float = 1, **labels: str) -> None:
        if value > 0:  # Ray refuses 0
            self._publish("inc", value, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gauge(Metric):
    kind = "gauge"

    def set(self, value: float, **labels: str) -> None:
        if _is_in_ray():
            _last_values.hold(self, value, labels)
            self.set_again(value, labels)

    def set_again(self, value: float, labels: dict[str, str]) -> None:
        self._publish("set", value, labels)


class _LastValues:
    """Of all gauges of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[str, ...]], tuple[Gauge, float, dict[str, str]]] = {}
        self._thread: threading.Thread | None = None

    def hold(self, gauge: Gauge, value: float, labels: dict[str, str]) -> None:
        with self._lock:
            self._values[gauge.name, tuple(labels.values())] = gauge, value, labels
            if self._thread is None:
                self._thread = threading.Thread(target=self._set_again, name="gauges", daemon=True)
                self._thread.start()

    def _set_again(self) -> None:
        while True:
            time.sleep(_SET_AGAIN_S)
            with self._lock:
                if not _is_in_ray():  # a later Ray of this process knows nothing of them
                    self._values.clear()
                    self._thread = None
                    return
                for gauge, value, labels in self._values.values():
                    gauge.set_again(value, labels)


_last_values = _LastValues()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histogram(Metric):
    """buckets: their upper ends, rising."""

    kind = "histogram"
    buckets: tuple[float, ...]

    def observe(self, value: float, **labels: str) -> None:
        self._publish("observe", value, labels)

    def _options(self) -> dict[str, Any]:
        return {"boundaries": list(self.buckets)}


# Training: by rank 0, at each point of the curves.
TRAIN_STEP = Gauge(name="ww_train_step", unit="steps", meaning="Steps done", labels=("run",))
TRAIN_LAST_STEP = Gauge(
    name="ww_train_last_step", unit="steps", meaning="Steps of the whole run", labels=("run",)
)
TRAIN_AUDIO = Counter(
    name="ww_train_audio_seconds_total",
    unit="s",
    meaning="Sound trained on, by all workers",
    labels=("run",),
)
TRAIN_DATA_WAIT = Counter(
    name="ww_train_data_wait_seconds_total",
    unit="s",
    meaning="How long rank 0 stood still for data",
    labels=("run",),
)
TRAIN_LOSS = Gauge(name="ww_train_loss", unit="", meaning="Loss of a step", labels=("run",))
TRAIN_GRADIENT_NORM = Gauge(
    name="ww_train_gradient_norm",
    unit="",
    meaning="Norm of a step's gradients, before they are clipped",
    labels=("run",),
)
TRAIN_SCORE = Gauge(
    name="ww_train_validation_score",
    unit="the measure's",
    meaning="Mean of a measure over the last validation",
    labels=("run", "measure"),
)

# Data: by the processes that mix, for each block.
MIX_AUDIO = Counter(name="ww_mix_audio_seconds_total", unit="s", meaning="Sound mixed")
MIX_TIME = Counter(
    name="ww_mix_seconds_total", unit="s", meaning="Time that mixing it took, all processes together"
)

# Sweeps: by the command, at each change.
SWEEP_TRIALS = Gauge(
    name="ww_sweep_trials",
    unit="trials",
    meaning="Trials that are running, done, pruned, failed or left to run",
    labels=("sweep", "state"),
)
SWEEP_BEST = Gauge(
    name="ww_sweep_best_score",
    unit="the measure's",
    meaning="Best score of any trial so far",
    labels=("sweep", "measure"),
)

# Serving, requests: by each replica, when a reply is over.
REQUESTS = Counter(
    name="ww_requests_total",
    unit="requests",
    meaning="HTTP requests answered; status 0: the caller left before there was one",
    labels=("path", "status"),
)
REQUEST_TIME = Histogram(
    name="ww_request_seconds",
    unit="s",
    meaning="From a request to the end of its reply",
    labels=("path",),
    buckets=(0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 300, 1000),
)
FILES = Gauge(name="ww_files", unit="files", meaning="Files being uploaded, denoised or answered")
FILE_AUDIO = Counter(
    name="ww_file_audio_seconds_total", unit="s", meaning="Sound in files denoised", labels=("model",)
)
FILE_FACTOR = Histogram(
    name="ww_file_real_time_factor",
    unit="s/s",
    meaning="Seconds of work per second of a file's sound",
    labels=("model",),
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)

# Serving, live calls: by each replica, once a second for each call.
LIVE_CALLS = Gauge(name="ww_live_calls", unit="calls", meaning="Live calls of a replica")
LIVE_LOAD = Gauge(
    name="ww_live_load_ratio",
    unit="0 to 1",
    meaning="The share of what a replica may carry that its calls take",
)
LIVE_AUDIO = Counter(
    name="ww_live_audio_seconds_total", unit="s", meaning="Sound of live calls denoised", labels=("model",)
)
LIVE_COMPUTE = Counter(
    name="ww_live_compute_seconds_total",
    unit="s",
    meaning="Time that the model took for it",
    labels=("model",),
)
LIVE_PROCESSING = Histogram(
    name="ww_live_processing_seconds",
    unit="s",
    meaning="From when sound is given to the model to its result: one piece a second of each call",
    labels=("model",),
    buckets=(0.004, 0.008, 0.012, 0.016, 0.024, 0.032, 0.05, 0.1, 0.25, 0.5, 1, 2),
)
LIVE_OVERRUNS = Counter(
    name="ww_live_overruns_total",
    unit="overruns",
    meaning="How often sound of a call began to wait for too long",
)
LIVE_ERRORS = Counter(
    name="ww_live_errors_total",
    unit="calls",
    meaning="Live calls refused, or ended by an error",
    labels=("code",),
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
