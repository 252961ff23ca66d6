"""What a model costs and what it does to silence, measured on one machine, one model's turn after another's.

Times are those that the thread computed for, so that other programs of the machine lengthen them little; nothing of the
same evaluation runs beside it.
"""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from cluster.enhancement import enhance_audio, measure_real_time_factor
from cluster.evaluation.scores import Cost
from cluster.evaluation.scoring import level_dbfs
from ww_models import Denoiser, StreamBatch
from ww_models.streaming.onnx_engine import OnnxEngine
from ww_models.streaming.onnx_export import Precision

NUM_STREAMS = 16
_ROUNDS = 3
_SILENCE_S = 4.0


def measure_models(
    models: Mapping[str, Denoiser], timing_s: float
) -> tuple[dict[str, float], dict[str, float], dict[str, Cost], str]:
    """By name: real-time factors of whole clips, level in dBFS that silence becomes, costs of streams; the machine.

    timing_s: of each form of a model, three times over; with 0 there are no costs.
    """
    torch.set_num_threads(1)
    factors = {name: measure_real_time_factor(model) for name, model in models.items()}
    silences = {name: silence_out_dbfs(model) for name, model in models.items()}
    costs = measure_streams(models, timing_s) if timing_s > 0 else {}
    return factors, silences, costs, machine_name()


def silence_out_dbfs(model: Denoiser) -> float:
    """The level of what becomes of digital silence."""
    silence_TC = np.zeros((round(_SILENCE_S * model.sample_rate), 1), np.float32)
    return level_dbfs(enhance_audio(model, silence_TC, model.sample_rate)[:, 0])


def measure_streams(models: Mapping[str, Denoiser], timing_s: float) -> dict[str, Cost]:
    """Costs by name; all forms of all models take turns, so that a slow moment of the machine is shared."""
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    runs: dict[tuple[str, int, str], Callable[[float], float]] = {}
    for name, model in models.items():
        if model.latency_samples is None:
            continue
        for precision in precisions:
            try:
                engine = OnnxEngine.from_model(model, precision)
            except RuntimeError:  # it does not stand this precision
                continue
            for num_streams in (1, NUM_STREAMS):
                runs[name, num_streams, precision] = _steps(engine, num_streams)
    rounds: dict[tuple[str, int, str], list[float]] = {key: [] for key in runs}
    for number in range(_ROUNDS + 1):
        for key, run in runs.items():
            cost = run(timing_s)
            if number:  # the first round warms up
                rounds[key].append(cost)

    def costs(name: str, num_streams: int) -> dict[str, float | None]:
        keys = {precision: (name, num_streams, precision) for precision in precisions}
        return {
            precision: statistics.median(rounds[key]) if key in rounds else None
            for precision, key in keys.items()
        }

    return {name: Cost(alone=costs(name, 1), batch_16=costs(name, NUM_STREAMS)) for name in models}


def _steps(engine: OnnxEngine, num_streams: int) -> Callable[[float], float]:
    """A function that steps the streams for so many seconds and returns what a second of each one's sound took."""
    streams = StreamBatch(engine, num_streams)
    rows = [streams.join() for _ in range(num_streams)]
    hop_s = engine.hop_samples / engine.sample_rate
    # Noise: digital silence can be faster than any recording.
    noise = np.random.default_rng(0).normal(scale=0.1, size=engine.sample_rate).astype(np.float32)

    def run(seconds: float) -> float:
        begin_s, num_steps = time.thread_time(), 0
        end_s = time.perf_counter() + seconds
        while num_steps == 0 or time.perf_counter() < end_s:
            start = num_steps * engine.hop_samples % (len(noise) - engine.hop_samples)
            for row in rows:
                streams.feed(row, noise[start : start + engine.hop_samples])
            streams.advance()
            num_steps += 1
        return (time.thread_time() - begin_s) / (num_steps * num_streams * hop_s)

    return run


def machine_name() -> str:
    """Processor and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    processor = named[1].strip() if named else platform.machine()
    return f"{processor}, torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}"
