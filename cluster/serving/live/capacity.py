"""How many live streams one process carries in real time, measured on the machine that it runs on."""

from __future__ import annotations

import dataclasses

import numpy as np

from cluster.serving.live.protocol import CallOptions
from cluster.serving.live.sound import CallSound
from cluster.serving.models import measure_step_s, median_s
from ww_models.streaming.engine import StepEngine

MAX_STREAMS = 128
_NUM_CONVERSIONS = 90
# What a hop of a call costs on its way in and out (WebSocket, event loop, stepper), in multiples of the
# conversions of its samples at 48 kHz: 200 us beside 40 us were measured.
CONNECTION_COST = 5.0
# The same where Ray Serve's own proxy, in Python, passes it on. All replicas of a node share one.
PYTHON_PROXY_COST = 45.0


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What steps of one model take, in seconds, while nothing else runs, and how many streams that leaves room for.

    hop_s: the sound of a step. sizes, steps_s: of batches, rising, and what a step of each takes, messages included.
    """

    max_streams: int
    hop_s: float
    sizes: tuple[int, ...]
    steps_s: tuple[float, ...]

    def step_s(self, num_streams: int) -> float:
        """Of a step of so many streams; between two sizes the time is taken to grow in a straight line."""
        return float(np.interp(num_streams, (0, *self.sizes), (0.0, *self.steps_s)))


def given_capacity(engine: StepEngine, max_streams: int, max_load: float) -> Capacity:
    """Of so many streams, as somebody says, which need `max_load` of the time of a hop then."""
    hop_s = engine.hop_samples / engine.sample_rate
    return Capacity(max_streams, hop_s, (max_streams,), (max_load * hop_s,))


def measure_capacity(
    engine: StepEngine, max_load: float = 0.7, connection_cost: float = CONNECTION_COST
) -> Capacity:
    """The streams whose steps and messages take at most `max_load` of the time of a hop; at least 1.

    Steps are timed for batches of growing size, up to the first that takes too long. Takes about half a second.
    """
    hop_s = engine.hop_samples / engine.sample_rate
    allowed_s = max_load * hop_s
    call_s = (1 + connection_cost) * measure_call_s(engine)
    sizes, steps_s = [0], [0.0]
    while sizes[-1] < MAX_STREAMS and steps_s[-1] <= allowed_s:
        sizes.append(2 * sizes[-1] or 1)
        steps_s.append(max(steps_s[-1], measure_step_s(engine, sizes[-1]) + sizes[-1] * call_s))
    max_streams = int(np.interp(allowed_s, steps_s, sizes))
    return Capacity(max(1, max_streams), hop_s, tuple(sizes[1:]), tuple(steps_s[1:]))


def measure_call_s(engine: StepEngine) -> float:
    """Seconds that converting one hop of one call takes, there and back, at 48 kHz in 16 bits; a median."""
    options = CallOptions(sample_rate=48_000)
    sound = CallSound(options, engine.sample_rate, engine.latency_samples)
    hop_samples = engine.hop_samples * options.sample_rate // engine.sample_rate
    noise = np.random.default_rng(0).integers(-3000, 3000, hop_samples)
    data = noise.astype("<i2").tobytes()
    return median_s(lambda: sound.finish(sound.feed(data)), _NUM_CONVERSIONS)
