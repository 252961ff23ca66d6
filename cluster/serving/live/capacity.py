"""How many live streams one process carries in real time, measured on the machine that it runs on."""

from __future__ import annotations

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


def measure_max_streams(
    engine: StepEngine, max_load: float = 0.7, connection_cost: float = CONNECTION_COST
) -> int:
    """The streams whose steps and messages take at most `max_load` of the time of a hop; at least 1.

    Steps are timed for batches of growing size, up to the first that takes too long; between two sizes the time is
    taken to grow in a straight line. Takes about half a second.
    """
    allowed_s = max_load * engine.hop_samples / engine.sample_rate
    call_s = (1 + connection_cost) * measure_call_s(engine)
    size, size_s = 0, 0.0
    while size < MAX_STREAMS:
        next_size = 2 * size or 1
        next_s = measure_step_s(engine, next_size) + next_size * call_s
        if next_s > allowed_s:
            fitting = (allowed_s - size_s) / max(next_s - size_s, 1e-9) * (next_size - size)
            return max(1, size + int(fitting))
        size, size_s = next_size, next_s
    return size


def measure_call_s(engine: StepEngine) -> float:
    """Seconds that converting one hop of one call takes, there and back, at 48 kHz in 16 bits; a median."""
    options = CallOptions(sample_rate=48_000)
    sound = CallSound(options, engine.sample_rate, engine.latency_samples)
    hop_samples = engine.hop_samples * options.sample_rate // engine.sample_rate
    noise = np.random.default_rng(0).integers(-3000, 3000, hop_samples)
    data = noise.astype("<i2").tobytes()
    return median_s(lambda: sound.finish(sound.feed(data)), _NUM_CONVERSIONS)
