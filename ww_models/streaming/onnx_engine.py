"""The CPU engine: the streaming step of a model in ONNX Runtime, on one thread unless more are asked for, fp32 or int8.

    engine = OnnxEngine.from_model(model, "int8")     streamer = stream(engine)
    engine.save("denoiser.onnx")                      streams = StreamBatch(engine, max_streams=16)

A saved engine is an .onnx file and a .json file that says how to drive it, with numpy and onnxruntime alone
(docs/run_exported.py).
"""

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ww_models.checks import one_line, require
from ww_models.denoiser import Denoiser
from ww_models.streaming.engine import SIZES, Samples, State, StepEngine, TorchEngine
from ww_models.streaming.onnx_export import (
    CHUNK,
    NEXT,
    OUTPUT,
    PRECISIONS,
    Precision,
    exact_without_vnni,
    export_step,
    quantized,
)
from ww_models.streaming.streamer import Streamer
from ww_models.whole_files import write_whole

FORMAT, FORMAT_VERSION = "wave-wizard-stream", 1
# Of the output, for a graph to count as that of the model. int8 of a sound network has 30 dB and more.
MAX_FP32_ERROR, MIN_INT8_SNR_DB = 1e-4, 15.0


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """How to drive the graph: what the .json file says.

    A stream starts with `lead_samples` zeros; each step takes the next `hop_samples`; the first `lag_samples` of all
    outputs are dropped. states: name -> [shape without the batch, value of every element at the start].
    """

    sample_rate: int
    hop_samples: int
    lead_samples: int
    lag_samples: int
    latency_samples: int
    precision: str
    states: dict[str, tuple[tuple[int, ...], float]]


class OnnxEngine:
    """A `StepEngine` on ONNX Runtime."""

    def __init__(self, graph: bytes, spec: StreamSpec, num_threads: int = 1) -> None:
        self.graph, self.spec = graph, spec
        self.sample_rate, self.hop_samples = spec.sample_rate, spec.hop_samples
        self.lead_samples, self.lag_samples = spec.lead_samples, spec.lag_samples
        self.latency_samples = spec.latency_samples
        if spec.precision == "int8" and not has_vnni():
            graph = exact_without_vnni(graph)
        # Not set_denormal_as_zero: it would flush the numbers of numpy and torch too, on the thread that makes the
        # first session of a process. `StepLevel` sees to it that silence leaves nothing denormal behind.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    @classmethod
    def from_model(
        cls, model: Denoiser, precision: Precision = "fp32", num_hops: int = 1, num_threads: int = 1
    ) -> "OnnxEngine":
        """Exports `model.streaming_step(num_hops)` and checks it against torch (RuntimeError if they differ)."""
        require(precision in PRECISIONS, f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}")
        reference = TorchEngine(model, num_hops)
        initial = reference.initial_state(1).items()
        states = {name: (value.shape[1:], float(value.flat[0])) for name, value in initial}
        sizes = {name: getattr(reference, name) for name in SIZES}
        spec = StreamSpec(**sizes, precision="fp32", states=states)
        graph = export_step(model, num_hops)
        engine = cls(graph.SerializeToString(), spec, num_threads)
        engine._check_against(reference)
        if precision == "fp32":
            return engine
        bits = 8 if has_vnni() else 7
        engine = cls(quantized(graph, bits).SerializeToString(), replace(spec, precision="int8"), num_threads)
        engine._check_against(reference)
        return engine

    def initial_state(self, batch: int) -> State:
        states = self.spec.states.items()
        return {name: np.full((batch, *shape), value, np.float32) for name, (shape, value) in states}

    def bind(self, chunk: Samples, state: State, output: Samples, next_state: State) -> Callable[[], None]:
        binding = self._session.io_binding()
        for name, array in ((CHUNK, chunk), *state.items()):
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in ((OUTPUT, output), *((NEXT + name, value) for name, value in next_state.items())):
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        options, run = onnxruntime.RunOptions(), self._session.run_with_iobinding
        # The runtime knows the arrays by their address alone: they have to live as long as the function.
        held = (chunk, state, output, next_state)

        def step(_held: Any = held) -> None:
            run(binding, options)

        return step

    def save(self, path: str | os.PathLike[str], measured: Mapping[str, Any] | None = None) -> Path:
        """Writes `path` (.onnx) and the .json beside it, each whole or not at all; returns the path.

        Stopped between the two, they are of two exports, and `load` refuses them. measured: for readers of the .json.
        """
        path = Path(path)
        check_target(path)
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "graph_sha256": hashlib.sha256(self.graph).hexdigest(),
            **asdict(self.spec),
            "measured": dict(measured or {}),
        }
        description = json.dumps(content, indent=2, allow_nan=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole({path: self.graph, path.with_suffix(".json"): description.encode()})
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "OnnxEngine":
        """What `save` wrote. ValueError if it is not there, not whole, of two exports or of a newer version."""
        path, description = Path(path), Path(path).with_suffix(".json")
        try:
            content = json.loads(description.read_text(encoding="utf-8"))
            graph = path.read_bytes()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} and its .json cannot be read ({error}): export the model again"
            ) from error
        require(
            isinstance(content, dict) and content.get("format") == FORMAT,
            f"{description} does not describe an exported denoiser: export the model again",
        )
        version = content.get("format_version")
        require(
            version == FORMAT_VERSION,
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            "export the model again with this program",
        )
        require(
            content.get("graph_sha256") == hashlib.sha256(graph).hexdigest(),
            f"{path} is damaged or belongs to another .json (its checksum differs): export the model again",
        )
        try:
            engine = cls(graph, _spec(content))
            engine._check_inputs()
        except Exception as error:  # those of the runtime have no base of their own
            found = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"{path} or its .json is damaged ({found}): export the model again") from error
        return engine

    def _check_inputs(self) -> None:
        """ValueError unless the graph takes the chunk and the states that the spec tells of."""
        expected = {CHUNK: (self.hop_samples,), **{name: at for name, (at, _) in self.spec.states.items()}}
        found = {item.name: tuple(item.shape[1:]) for item in self._session.get_inputs()}
        require(found == expected, f"the graph takes {found}, the description says {expected}")

    def _check_against(self, reference: StepEngine) -> None:
        """RuntimeError unless streams of this engine give what those of the reference give."""
        noisy = _test_signal(self.lag_samples + 6 * self.hop_samples, self.sample_rate)
        streamers = (Streamer(self, 2), Streamer(reference, 2))
        ours, theirs = (np.concatenate([each.feed(noisy), each.flush()], -1) for each in streamers)
        if self.spec.precision == "fp32":
            error = float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-9))
            if not error < MAX_FP32_ERROR:
                raise RuntimeError(f"the exported graph differs from the model by {error:.1e} of its peak")
            return
        # A model that lets next to nothing of this through is judged by what came in.
        power = max(float(np.square(theirs).mean()), 1e-4 * float(np.square(noisy).mean()))
        error_db = 10 * math.log10(max(float(np.square(ours - theirs).mean()), 1e-30) / power)
        if not error_db < -MIN_INT8_SNR_DB:
            hint = f"at least {MIN_INT8_SNR_DB:.0f} were expected: export fp32"
            raise RuntimeError(f"the int8 graph has {-error_db:.1f} dB SNR to the model, {hint}")


def _test_signal(num_samples: int, sample_rate: int) -> Samples:
    """(2, T): two voices in noise. Of noise alone a trained model would leave nothing to compare."""
    phase = 2 * np.pi * np.arange(num_samples) / sample_rate
    voices = [sum(np.sin(pitch_hz * k * phase) / k for k in range(1, 20)) for pitch_hz in (110, 190)]
    noise = np.random.default_rng(0).standard_normal((2, num_samples))
    return (0.1 * np.stack(voices) + 0.02 * noise).astype(np.float32)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raises ValueError if an export cannot be written to `path`; an earlier export may be there."""
    path = Path(path)
    require(path.suffix == ".onnx", f"{path} does not end in .onnx: give a file name that does")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    require(folder.is_dir(), f"{path} cannot be written, {folder} is no folder: choose another place")
    may_write = os.access(folder, os.W_OK | os.X_OK)
    require(may_write, f"{path} cannot be written, you may not write to {folder}: choose another place")
    require(not path.is_dir(), f"{path} is a folder: give the name of a file")
    description = path.with_suffix(".json")
    if os.path.lexists(description):
        try:
            found = json.loads(description.read_text(encoding="utf-8")).get("format")
        except (OSError, ValueError, AttributeError):
            found = None
        message = f"{description} would be overwritten and is not of an export: choose another name"
        require(found == FORMAT, message)


def has_vnni() -> bool:
    """Whether this processor adds int8 products in 32 bits. Where nothing tells, no."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True  # others don't add them in 16 bits
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


def _spec(content: Mapping[str, Any]) -> StreamSpec:
    """The spec in what a .json holds. KeyError, TypeError or ValueError if it is not one."""
    sizes = {name: content[name] for name in SIZES}
    for name, size in sizes.items():
        least = 1 if name in ("sample_rate", "hop_samples") else 0
        is_size = type(size) is int and size >= least
        require(is_size, f"{name} is {size!r}, not an integer of {least} or more")
    require(content["precision"] in PRECISIONS, f"precision is {content['precision']!r}")
    found = content["states"].items()
    states = {name: (tuple(int(size) for size in shape), float(value)) for name, (shape, value) in found}
    require(all(math.isfinite(value) for _, value in states.values()), "a state starts with NaN or infinity")
    return StreamSpec(precision=content["precision"], states=states, **sizes)
