"""One stream: it gives what the whole clip gives, for every causal form, in constant memory."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.ww_models.samples import CAUSAL_FORMS, SMALL_CAUSAL, heard, held_bytes, noise, small, speech_like
from ww_models import PRESETS, Denoiser, build_model, stream
from ww_models.streaming.engine import TorchEngine
from ww_models.streaming.streamer import Streamer

# Chunks of one sample, of a frame or two, and longer than several steps.
SIZES = st.lists(
    st.one_of(st.integers(1, 9), st.integers(1, 300), st.integers(1, 3000)), min_size=1, max_size=9
)


@cache
def causal_form(name: str, normalize: str) -> Denoiser:
    torch.manual_seed(0)
    return heard(build_model(**{**CAUSAL_FORMS[name], "normalize": normalize}))


def clip(num_samples: int, batch: int = 1) -> Tensor:
    """(B, T)"""
    return (speech_like(num_samples, batch=batch) + noise(num_samples, batch=batch))[:, 0]


def whole(model: Denoiser, noisy_BT: Tensor) -> Tensor:
    """(B, T) -> (B, T), the output over the whole clip."""
    with torch.no_grad():
        return model(noisy_BT[:, None])[:, 0]


def assert_same(given_BT: Tensor, expected_BT: Tensor) -> None:
    """To 1e-5 of the peak of each row, or where that is rounding itself, of -60 dBFS."""
    assert given_BT.shape == expected_BT.shape
    error = (given_BT - expected_BT).abs().amax(-1) / expected_BT.abs().amax(-1).clamp(min=1e-3)
    assert error.max() <= 1e-5


def streamed(streamer: Streamer, noisy_BT: Tensor, size: int = 1000) -> Tensor:
    return torch.cat([*(streamer.feed(part) for part in noisy_BT.split(size, -1)), streamer.flush()], -1)


@pytest.mark.parametrize("normalize", ["running", "none"])
@pytest.mark.parametrize("name", CAUSAL_FORMS)
@given(sizes=SIZES)
@example(sizes=[1])
@example(sizes=[1] * 5 + [2000, 1, 3000])
@settings(max_examples=6, deadline=None)
def test_any_chunks_give_what_the_whole_clip_gives(name: str, normalize: str, sizes: list[int]) -> None:
    model = causal_form(name, normalize)
    noisy = clip(sum(sizes))
    streamer = stream(model)
    latency = streamer.latency_samples
    assert latency == model.latency_samples is not None
    finished, num_fed = [torch.empty(1, 0)], 0
    for chunk in noisy.split(sizes, -1):
        finished.append(streamer.feed(chunk))
        num_fed += chunk.shape[-1]
        assert num_fed - latency <= sum(part.shape[-1] for part in finished) <= num_fed
    finished.append(streamer.flush())
    assert_same(torch.cat(finished, -1), whole(model, noisy))


@pytest.mark.parametrize("name", ["demucs48", "gatewave", "waveunet"])
def test_originals_of_full_size_stream(name: str) -> None:
    model = heard(build_model(**{**PRESETS[name], "causal": True, "normalize": "running"}))
    noisy = clip(12_345)
    assert_same(streamed(stream(model), noisy), whole(model, noisy))


@pytest.mark.parametrize("name", SMALL_CAUSAL)
def test_residual_and_any_level_hop(name: str) -> None:
    for level_hop in (100, 17):
        model = heard(small(name, normalize="running", level_hop=level_hop, residual=True))
        noisy = clip(2 * model.hop_samples + 77)
        assert_same(streamed(stream(model), noisy), whole(model, noisy))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["demucs", "demucs-x2", "gatewave", "waveunet"])
def test_shallow_models_stream_in_steps_of_few_samples(name: str, depth: int) -> None:
    model = heard(small(name, depth=depth, normalize="none"))
    noisy = clip(700)
    assert_same(streamed(stream(model), noisy), whole(model, noisy))


@pytest.mark.parametrize(
    "settings",
    [
        {"sinc_lookahead": 5},
        {"sinc_lookahead": 1},
        {"sinc_zeros": 9},
        {"stride": 2},
        {"stride": 6, "kernel": 12},
        {"resample": 2, "sinc_zeros": 9},
        {"resample": 2, "stride": 2, "kernel": 4, "normalize": "none"},
    ],
    ids=str,
)
def test_demucs_of_any_filter_and_stride(settings: dict[str, object]) -> None:
    """The newest sample that a frame needs lies on either side of the half-way ones."""
    model = heard(small("demucs", **settings))
    noisy = clip(2000)
    assert_same(streamed(stream(model), noisy), whole(model, noisy))


def test_a_level_that_forgets_within_a_fraction_of_a_step_is_refused() -> None:
    model = small("gatewave", level_hop=17, level_memory_s=0.0005)
    with pytest.raises(ValueError, match="level_memory_s is too short for a stream"):
        stream(model)


def test_a_stream_whose_first_frame_ends_many_steps_late() -> None:
    model = heard(small("gatewave", depth=10, growth=1, stride=1, hidden=2, gru_layers=1, normalize="none"))
    assert model.latency_samples > 64 * model.hop_samples
    noisy = clip(150)
    assert_same(streamed(stream(model), noisy), whole(model, noisy))


@pytest.mark.parametrize("name", ["waveunet", "demucs", "gatewave", "bandmask"])
def test_streams_in_lock_step_are_each_as_alone(name: str) -> None:
    model = heard(small(name))
    noisy = clip(3000, batch=3) * torch.tensor([[1.0], [100.0], [0.01]])
    together = streamed(stream(model, batch=3), noisy)
    assert_same(together, torch.cat([streamed(stream(model), noisy[row : row + 1]) for row in range(3)]))
    assert_same(together, whole(model, noisy))
    with pytest.raises(ValueError, match="batch is 0: give the number of streams"):
        stream(model, batch=0)


@pytest.mark.parametrize("name", SMALL_CAUSAL)
def test_reset_starts_a_new_stream(name: str) -> None:
    streamer = stream(causal_form(name, "running"))
    noisy = clip(2500)
    first = streamed(streamer, noisy)
    for _ in range(2):
        streamer.reset()
        assert torch.equal(streamed(streamer, noisy), first)
    streamer.reset()
    streamer.feed(100 * noisy)
    streamer.reset()
    assert torch.equal(streamed(streamer, noisy), first)


@pytest.mark.parametrize("name", SMALL_CAUSAL)
def test_weights_are_those_of_when_the_streamer_was_made(name: str) -> None:
    model = heard(small(name))
    noisy = clip(2000)
    expected = whole(model, noisy)
    streamer = stream(model.train())
    assert model.training
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.add_(1)
    assert_same(streamed(streamer, noisy), expected)


def test_arrays_give_arrays_and_tensors_tensors() -> None:
    model = causal_form("gatewave", "running")
    noisy = clip(2000)
    arrays = stream(model)
    out = [arrays.feed(noisy[:, :1000].numpy()), arrays.feed(noisy[:, 1000:].numpy()), arrays.flush()]
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float32 for part in out)
    assert np.array_equal(np.concatenate(out, -1), streamed(stream(model), noisy).numpy())
    # What was returned stays what it was, and what was fed may be written over.
    streamer, buffer = stream(model), noisy[:, :1000].clone()
    first = streamer.feed(buffer)
    kept = first.clone()
    buffer.fill_(7)
    streamer.feed(noisy[:, 1000:])
    assert torch.equal(first, kept)
    assert np.array_equal(np.concatenate(out, -1)[:, : first.shape[-1]], first.numpy())


def test_after_flush_the_stream_is_at_its_end() -> None:
    streamer = stream(causal_form("waveunet", "running"), batch=2)
    assert streamer.flush().shape == (2, 0)
    streamer.reset()
    num_out = streamer.feed(clip(10, batch=2)).shape[-1]
    assert streamer.flush().shape == (2, 10 - num_out)
    assert streamer.flush().shape == (2, 0)
    with pytest.raises(ValueError, match=r"was flushed.*call reset\(\)"):
        streamer.feed(clip(10, batch=2))
    streamer.reset()
    streamer.feed(clip(10, batch=2))


BAD_CHUNKS = {
    "NaN": (torch.tensor([[0.0, torch.nan, torch.inf]]), "finite samples.*got 2 that are NaN, infinite or"),
    "inf": (np.array([[-np.inf]], np.float32), "finite samples.*got 1 that are NaN, infinite or"),
    "huge": (np.array([[0.0, 3e19]], np.float32), "finite samples.*got 1 that are .*beyond 1e.06"),
    "masked": (np.ma.masked_invalid(np.array([[0.0, np.nan]], np.float32)), "finite samples.*got 1 that are"),
    "float64": (torch.zeros(1, 9, dtype=torch.float64), "float32 samples.*got torch.float64: convert"),
    "float64 array": (np.zeros((1, 9)), "float32 samples.*got float64: convert"),
    "int16": (
        np.zeros((1, 9), np.int16),
        "got int16: convert them first .16-bit integers are divided by 32768",
    ),
    "no batch": (torch.zeros(9), r"shape \(1, samples\), got \(9,\)"),
    "three axes": (torch.zeros(1, 1, 9), r"shape \(1, samples\), got \(1, 1, 9\)"),
    "two channels": (
        torch.zeros(2, 9),
        r"mono.*shape \(1, samples\), got \(2, 9\): mix several channels down",
    ),
    "empty": (torch.zeros(1, 0), "at least one sample, got an empty chunk"),
    "a list": ([[0.0, 0.1]], r"shape \(1, samples\), got list"),
    "nothing": (None, "got NoneType"),
}


@pytest.mark.parametrize("kind", BAD_CHUNKS)
def test_a_bad_chunk_is_refused_and_changes_nothing(kind: str) -> None:
    chunk, message = BAD_CHUNKS[kind]
    model = causal_form("gatewave", "running")
    noisy = clip(2000)
    streamer = stream(model)
    out = [streamer.feed(noisy[:, :777])]
    with pytest.raises(ValueError, match=message) as error:
        streamer.feed(chunk)
    assert "\n" not in str(error.value)
    out += [streamer.feed(noisy[:, 777:]), streamer.flush()]
    assert torch.equal(torch.cat(out, -1), streamed(stream(model), noisy))


def test_a_model_that_does_not_run_in_steps_is_refused() -> None:
    for name in ("gatewave-original", "waveunet-both-ways", "waveunet-original"):
        with pytest.raises(ValueError, match=r"has no streaming step \(causal=False.*ww_models.stream"):
            TorchEngine(small(name))
    # Its look-ahead is bounded, yet it looks both ways.
    with pytest.raises(ValueError, match="has no streaming step"):
        TorchEngine(small("waveunet-original", normalize="running"))


def test_an_hour_takes_no_more_memory_than_a_minute() -> None:
    model = heard(small("gatewave", depth=4, hidden=2, growth=1, kernel=8, stride=8, level_hop=32_768))
    streamer = stream(model)
    minute = clip(60 * 16_000 - 7)
    streamer.feed(minute)
    held = held_bytes(streamer)
    for _ in range(59):
        finished = streamer.feed(minute)
        # Up to a step's samples wait for its end.
        assert abs(held_bytes(streamer) - held) <= 4 * model.hop_samples
        assert finished.shape[-1] > 59 * 16_000
    assert finished.isfinite().all()


# Multiply-adds of a step for each that the layers need. Wave-U-Net's few channels share windows: zeros as well.
WORK = {"gatewave": (1.0, 1.0), "demucs": (0.98, 1.01), "waveunet": (1.0, 1.4), "bandmask": (1.0, 1.0)}


@pytest.mark.parametrize("name", PRESETS)
def test_each_output_of_a_layer_is_computed_once(name: str) -> None:
    model = build_model(**{**PRESETS[name], "causal": True, "normalize": "running"})
    step = model.streaming_step()
    counter, state = FlopCounterMode(display=False), step.initial_state(1)
    with counter, torch.no_grad():
        step(torch.zeros(1, step.hop_samples), state)
    macs = counter.get_total_flops() / 2
    work = macs / (model.macs_per_second * step.hop_samples / model.sample_rate)
    least, most = WORK[model.name]
    assert least - 1e-6 <= work <= most + 1e-6


@pytest.mark.parametrize("name", SMALL_CAUSAL)
def test_a_long_stream_is_the_whole_clip(name: str) -> None:
    """A hundred times the memory of the level, and many more steps than the age of a stream counts."""
    model = heard(small(name, normalize="running", level_hop=4, level_memory_s=0.016))
    noisy = clip(25_600)
    assert noisy.shape[-1] > 200 * model.hop_samples
    out = streamed(stream(model), noisy, 4096)
    assert_same(out[:, -4096:], whole(model, noisy)[:, -4096:])


@pytest.mark.parametrize("num_hops", [2, 5])
@pytest.mark.parametrize("name", CAUSAL_FORMS)
def test_steps_of_several_hops_give_the_whole_clip_too(name: str, num_hops: int) -> None:
    model = causal_form(name, "running")
    engine, noisy = TorchEngine(model, num_hops), clip(20 * model.hop_samples + 3)
    assert engine.hop_samples == num_hops * model.hop_samples
    streamer, num_fed, finished = Streamer(engine, 1), 0, [torch.empty(1, 0)]
    for chunk in noisy.split(100, -1):
        finished.append(streamer.feed(chunk))
        num_fed += chunk.shape[-1]
        assert num_fed - engine.latency_samples <= sum(part.shape[-1] for part in finished) <= num_fed
    assert_same(torch.cat([*finished, streamer.flush()], -1), whole(model, noisy))


@pytest.mark.parametrize("name", [name for name in CAUSAL_FORMS if not name.startswith("bandmask")])
def test_the_age_of_a_stream_stops_to_matter_before_it_stops_to_count(name: str) -> None:
    step = causal_form(name, "running").streaming_step()
    parts = clip(20 * step.hop_samples).split(step.hop_samples, -1)
    state = step.initial_state(1)
    with torch.inference_mode():
        for part in parts[:-1]:
            _, state = step(part, state)
        young, _ = step(parts[-1], state)
        for age in (step.max_age, 1e6):
            old, kept = step(parts[-1], {**state, "age": torch.full((1, 1, 1), age)})
            assert torch.equal(old, young)
            assert kept["age"].item() == step.max_age
