"""The engine on ONNX Runtime: it gives what torch gives, and int8 nearly so, each stream by itself."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ww_models.samples import COMPACT_PRESETS, SMALL_CAUSAL, heard, noise, small, speech_like
from ww_models import PRESETS, Denoiser, build_model
from ww_models.streaming import onnx_engine
from ww_models.streaming.engine import Samples
from ww_models.streaming.onnx_engine import OnnxEngine, has_vnni
from ww_models.streaming.streamer import StreamBatch, Streamer

# With a residual, untrained networks add so little that any error would do.
FORMS = {name: {"residual": False} for name in (*SMALL_CAUSAL, *COMPACT_PRESETS)}

# Their output comes more than six steps after the first sample went in.
SHALLOW: dict[str, dict[str, Any]] = {
    "demucs 1": {"name": "demucs", "hidden": 4, "depth": 1, "normalize": "none"},
    "demucs 2": {"name": "demucs", "hidden": 4, "depth": 2, "normalize": "none"},
    "gatewave stride 2": {
        "name": "gatewave",
        "hidden": 4,
        "depth": 5,
        "stride": 2,
        "normalize": "none",
    },
}


@cache
def model_of(name: str) -> Denoiser:
    torch.manual_seed(0)
    if name in COMPACT_PRESETS:
        return heard(build_model(**{**PRESETS[name], **FORMS[name]}))
    return heard(small(name, **FORMS[name]))


@cache
def engine_of(name: str, precision: str) -> OnnxEngine:
    """An engine; in int8 all products of small models are int8, though none is large enough to gain from it."""
    with pytest.MonkeyPatch.context() as patch:
        if name in SMALL_CAUSAL:
            patch.setattr("ww_models.streaming.onnx_export.MIN_INT8_WEIGHTS", 1)
            patch.setattr("ww_models.streaming.onnx_export.MIN_INT8_INPUTS", 1)
        return OnnxEngine.from_model(model_of(name), precision)


def signal(num_samples: int, seed: int = 0, gain: float = 1.0) -> Samples:
    """(T,)"""
    return gain * (speech_like(num_samples, seed) + noise(num_samples, seed))[0, 0].numpy()


def streamed(source: Denoiser | OnnxEngine, samples: Samples, seed: int = 0) -> Samples:
    """(T,) -> (T,), in chunks of random sizes."""
    rng, streamer, parts, start = np.random.default_rng(seed), Streamer(source), [], 0
    while start < len(samples):
        size = int(rng.integers(1, rng.choice([4, 300, 3000])))
        parts.append(streamer.feed(samples[None, start : start + size]))
        start += size
    return np.concatenate([*parts, streamer.flush()], -1)[0]


def snr_db(expected: Samples, given: Samples) -> float:
    error = float(((expected - given).astype(np.float64) ** 2).sum())
    return 10 * np.log10(float((expected.astype(np.float64) ** 2).sum()) / max(error, 1e-30))


def assert_same(given: Samples, expected: Samples) -> None:
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", FORMS)
def test_fp32_gives_what_torch_gives(name: str) -> None:
    samples = signal(9000)
    engine = engine_of(name, "fp32")
    with torch.no_grad():
        expected = model_of(name)(torch.from_numpy(samples)[None, None])[0, 0].numpy()
    assert_same(streamed(model_of(name), samples), expected)
    for seed in (1, 2):
        assert_same(streamed(engine, samples, seed), expected)


@pytest.mark.parametrize("name", FORMS)
def test_int8_comes_close(name: str) -> None:
    samples = signal(9000)
    expected = streamed(engine_of(name, "fp32"), samples)
    given = streamed(engine_of(name, "int8"), samples, seed=1)
    assert len(engine_of(name, "int8").graph) < len(engine_of(name, "fp32").graph) or name in SMALL_CAUSAL
    assert not np.array_equal(given, expected), "nothing was quantized: the test would hold for nothing"
    assert snr_db(expected, given) > 30


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["waveunet", "demucs", "gatewave", "gatewave-compact", "bandmask-compact"])
def test_a_loud_stream_comes_and_goes_and_nobody_hears_it(name: str, precision: str) -> None:
    engine = engine_of(name, precision)
    streams, rng = StreamBatch(engine, max_streams=4), np.random.default_rng(0)
    sounds = {streams.join(): signal(8000, seed) for seed in range(3)}
    finished: dict[int, list[Samples]] = {stream: [] for stream in sounds}
    num_fed, loud = dict.fromkeys(sounds, 0), None
    for turn in range(60):
        if turn in (5, 40):
            loud = streams.join()
        if turn == 25:
            streams.leave(loud)
            loud = None
        for stream in rng.permutation(list(sounds))[: rng.integers(1, 4)]:
            chunk = sounds[stream][num_fed[stream] :][: rng.integers(1, 700)]
            if len(chunk):
                streams.feed(int(stream), chunk)
                num_fed[stream] += len(chunk)
        if loud is not None:
            streams.feed(loud, signal(500, turn, gain=100.0))
        for stream, samples in streams.advance().items():
            if stream in finished:
                finished[stream].append(samples)
    for stream, samples in sounds.items():
        given = np.concatenate([*finished[stream], streams.flush(stream)])
        alone = streamed(engine, samples[: num_fed[stream]])
        assert len(given) == num_fed[stream] > 4000
        if precision == "fp32":
            assert_same(given, alone)
        else:
            assert snr_db(alone, given) > 40


@pytest.mark.parametrize("settings", SHALLOW.values(), ids=SHALLOW)
def test_a_model_whose_output_comes_many_steps_late_is_exported_too(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, samples = heard(build_model(**settings, residual=False)), signal(3000)
    with torch.no_grad():
        expected = model(torch.from_numpy(samples)[None, None])[0, 0].numpy()
    assert_same(streamed(OnnxEngine.from_model(model), samples), expected)


@pytest.mark.parametrize("name", SMALL_CAUSAL)
def test_an_engine_of_larger_steps_gives_what_the_other_gives(name: str) -> None:
    model, samples = model_of(name), signal(6000)
    large = OnnxEngine.from_model(model, num_hops=3)
    assert large.hop_samples == 3 * model.hop_samples
    assert_same(streamed(large, samples), streamed(engine_of(name, "fp32"), samples))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_long_silence_stays_finite_and_sound_comes_back(precision: str) -> None:
    model = heard(small("gatewave", residual=False, level_memory_s=0.05))  # half a minute is 600 memories
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ww_models.streaming.onnx_export.MIN_INT8_WEIGHTS", 1)
        patch.setattr("ww_models.streaming.onnx_export.MIN_INT8_INPUTS", 1)
        engine = OnnxEngine.from_model(model, precision)
    sound = signal(8000)
    samples = np.concatenate([sound, np.zeros(30 * engine.sample_rate, np.float32), sound])
    expected, given = streamed(model, samples), streamed(engine, samples)
    assert np.isfinite(given).all()
    before, after = slice(0, len(sound)), slice(-len(sound), None)
    for part in (before, after):
        assert np.abs(expected[part]).max() > 0.01
        assert snr_db(expected[part], given[part]) > (100 if precision == "fp32" else 30)
    silent = slice(len(sound) + engine.sample_rate, -len(sound))
    assert np.abs(given[silent] - expected[silent]).max() <= 0.01 * np.abs(expected[before]).max()


def test_an_engine_leaves_the_numbers_of_others_as_they_were() -> None:
    """In a process of its own: a runtime that flushes tiny numbers starts with the first session there."""
    program = """
import numpy as np, torch
from ww_models import build_model
from ww_models.streaming.onnx_engine import OnnxEngine
OnnxEngine.from_model(build_model("gatewave", hidden=4, depth=2).eval())
assert (np.full(4, 1e-40, np.float32) * np.float32(1) > 0).all()
assert (torch.full((4,), 1e-40) * 1 > 0).all()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr


def test_many_at_once_is_one_after_the_other() -> None:
    engine = engine_of("gatewave", "fp32")
    both = np.stack([signal(3000, 0), signal(3000, 1)])
    streamer = Streamer(engine, batch=2)
    given = np.concatenate([streamer.feed(both), streamer.flush()], -1)
    for row in range(2):
        assert_same(given[row], streamed(engine, both[row]))
    streamer.reset()
    np.testing.assert_array_equal(np.concatenate([streamer.feed(both), streamer.flush()], -1), given)


def test_weights_get_seven_bits_where_products_are_added_in_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_engine, "has_vnni", lambda: False)
    samples, model = signal(4000), model_of("gatewave-compact")
    narrow = OnnxEngine.from_model(model, "int8")
    assert snr_db(streamed(engine_of("gatewave-compact", "fp32"), samples), streamed(narrow, samples)) > 30
    bits = [np.abs(weight).max() for weight in int8_weights(narrow.graph)]
    assert bits
    assert max(bits) == 63
    monkeypatch.setattr(onnx_engine, "has_vnni", lambda: True)
    wide = OnnxEngine.from_model(model, "int8")
    assert max(np.abs(weight).max() for weight in int8_weights(wide.graph)) == 127


@pytest.mark.parametrize("weight_bits", [7, 8])
def test_a_weight_of_several_products_runs_in_int8_without_vnni(
    monkeypatch: pytest.MonkeyPatch, weight_bits: int
) -> None:
    model, samples = heard(small("gatewave", depth=2, residual=False)), signal(4000)
    fp32 = OnnxEngine.from_model(model)
    monkeypatch.setattr("ww_models.streaming.onnx_export.MIN_INT8_WEIGHTS", 1)
    monkeypatch.setattr("ww_models.streaming.onnx_export.MIN_INT8_INPUTS", 1)
    graph = onnx_engine.quantized(onnx_engine.export_step(model), weight_bits).SerializeToString()
    monkeypatch.setattr(onnx_engine, "has_vnni", lambda: False)
    engine = OnnxEngine(graph, replace(fp32.spec, precision="int8"))
    assert snr_db(streamed(fp32, samples), streamed(engine, samples)) > 30
    assert engine.graph == graph, "what is saved is what was exported"


def int8_weights(graph: bytes) -> list[np.ndarray]:
    import onnx

    initializers = onnx.load_from_string(graph).graph.initializer
    return [
        onnx.numpy_helper.to_array(item) for item in initializers if item.data_type == onnx.TensorProto.INT8
    ]


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : fpu avx2 avx512f avx512_vnni", True),
        ("x86_64", "flags : fpu avx2 avx_vnni", True),
        ("x86_64", "flags : fpu avx2 avx512f", False),
        ("AMD64", "flags : fpu avx2", False),
        ("x86_64", None, False),
        ("aarch64", "Features : asimd", True),
        ("arm64", None, True),
    ],
)
def test_has_vnni_reads_what_the_processor_says(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str | None, expected: bool
) -> None:
    def read_text(*_: object, **__: object) -> str:
        if flags is None:
            raise FileNotFoundError
        return flags

    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    assert has_vnni() is expected


def test_what_no_engine_can_be_made_of_is_refused() -> None:
    with pytest.raises(ValueError, match="precision is 'int4': choose one of fp32, int8"):
        OnnxEngine.from_model(model_of("gatewave"), "int4")
    with pytest.raises(ValueError, match="this gatewave has no streaming step"):
        OnnxEngine.from_model(small("gatewave-original"))


@pytest.mark.parametrize("is_training", [False, True])
def test_an_export_leaves_the_mode_of_the_model(is_training: bool) -> None:
    model = small("gatewave").train(is_training)
    OnnxEngine.from_model(model)
    assert {part.training for part in model.modules()} == {is_training}


@pytest.mark.parametrize("name", SMALL_CAUSAL)
def test_a_step_shares_no_part_with_the_model(name: str) -> None:
    model = small(name)
    assert not set(model.streaming_step().modules()) & set(model.modules())


def test_a_graph_that_differs_from_the_model_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    other = onnx_engine.export_step(small("gatewave", residual=False))
    monkeypatch.setattr(onnx_engine, "export_step", lambda *_: other)
    with pytest.raises(RuntimeError, match="differs from the model by"):
        OnnxEngine.from_model(model_of("gatewave"))


def test_an_int8_graph_that_is_not_near_the_model_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    other = onnx_engine.export_step(small("gatewave", residual=False))
    monkeypatch.setattr(onnx_engine, "quantized", lambda *_: other)
    with pytest.raises(
        RuntimeError, match=r"the int8 graph has -?\d+\.\d dB SNR to the model, at least 15 were"
    ):
        OnnxEngine.from_model(model_of("gatewave"), "int8")


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_dead_int8_graph_is_not_given_out(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    import onnx

    def dead(graph: onnx.ModelProto, _: int) -> onnx.ModelProto:
        for item in graph.graph.initializer:
            if item.data_type == onnx.TensorProto.FLOAT:
                weight = onnx.numpy_helper.to_array(item)
                item.CopyFrom(onnx.numpy_helper.from_array(np.full_like(weight, value), item.name))
        return graph

    monkeypatch.setattr(onnx_engine, "quantized", dead)
    with pytest.raises(RuntimeError, match="the int8 graph has"):
        OnnxEngine.from_model(model_of("gatewave"), "int8")


def test_a_model_that_lets_nothing_through_can_be_int8() -> None:
    model = small("gatewave", residual=False, normalize="none").eval()
    for value in model.parameters():
        value.data *= 1e-6
    assert OnnxEngine.from_model(model, "int8").spec.precision == "int8"


def test_onnx_runtime_tells_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    """By itself it writes a session's id into the temporary folder, and events to send into the home of its user."""
    program = """
from ww_models import build_model
from ww_models.streaming.onnx_engine import OnnxEngine
OnnxEngine.from_model(build_model("demucs", hidden=2, depth=1, normalize="none"))
"""
    places = {"TMPDIR": tmp_path / "temporary", "HOME": tmp_path / "home"}
    for place in places.values():
        place.mkdir()
    subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.pathsep.join(sys.path), **{name: str(path) for name, path in places.items()}},
        check=True,
        timeout=240,
    )
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in left if path.name == ".ses" or "onnxruntime" in str(path)], left
