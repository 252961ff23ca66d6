"""Overlap streaming: near the whole-clip output for models that need the whole clip, in constant memory."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ww_models.samples import SMALL, SMALL_CAUSAL, heard, held_bytes, noise, small, speech_like
from ww_models import Denoiser, si_sdr_db, stream
from ww_models.streaming import overlap
from ww_models.streaming.overlap import FADE_S, OverlapStreamer
from ww_models.streaming.streamer import Streamer

ORIGINALS = ["waveunet-original", "demucs-original", "gatewave-original"]
# Both ways or not, and every kind of level; the last two see the whole clip for one reason alone.
FORMS = {
    **{name: {} for name in SMALL if name not in SMALL_CAUSAL},
    **{f"{name} running": {"normalize": "running"} for name in ORIGINALS},
    "gatewave utterance": {"normalize": "utterance"},
    "demucs utterance": {"normalize": "utterance", "residual": True},
}
SHORT = {"hop_s": 0.1, "past_s": 0.15, "ahead_s": 0.1, "level_ahead_s": 0.25, "fade_s": 0.02}


@cache
def form(name: str) -> Denoiser:
    torch.manual_seed(0)
    return heard(small(name.split()[0], **FORMS[name]))


def clip(num_samples: int, batch: int = 1, seed: int = 0) -> Tensor:
    """(B, T)"""
    return (speech_like(num_samples, seed, batch) + noise(num_samples, seed, batch))[:, 0]


def whole(model: Denoiser, noisy_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return model(noisy_BT[:, None])[:, 0]


def streamed(streamer: OverlapStreamer, noisy_BT: Tensor, size: int = 1000) -> Tensor:
    return torch.cat([*(streamer.feed(part) for part in noisy_BT.split(size, -1)), streamer.flush()], -1)


def at_level_of(model: Denoiser, noisy: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets streams know the level of the whole clip, so that only the windows' context is tested."""
    level = noisy.std(-1, keepdim=True)
    monkeypatch.setattr(
        "ww_models.streaming.overlap._HeardLevel.scales", lambda *_: (model.config.level_floor + level, level)
    )


def test_a_model_that_needs_the_whole_clip_or_looks_both_ways_gets_overlapping_windows() -> None:
    for name in FORMS:
        assert isinstance(stream(form(name)), OverlapStreamer)
    assert isinstance(stream(small("gatewave")), Streamer)


@pytest.mark.parametrize("name", FORMS)
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=5))
@settings(max_examples=5, deadline=None)
def test_any_chunks_give_the_same_and_never_later_than_is_said(name: str, sizes: list[int]) -> None:
    model, noisy = form(name), clip(sum(sizes))
    streamer = OverlapStreamer(model, **SHORT)
    finished, num_fed = [], 0
    for chunk in noisy.split(sizes, -1):
        finished.append(streamer.feed(chunk))
        num_fed += chunk.shape[-1]
        num_out = sum(part.shape[-1] for part in finished)
        assert num_fed - streamer.latency_samples <= num_out <= num_fed
    finished.append(streamer.flush())
    out = torch.cat(finished, -1)
    assert out.shape == noisy.shape
    torch.testing.assert_close(out, streamed(OverlapStreamer(model, **SHORT), noisy, size=4321))


@pytest.mark.parametrize("name", FORMS)
def test_the_latency_is_exact(name: str) -> None:
    streamer = OverlapStreamer(form(name), **SHORT)
    assert streamer.feed(clip(streamer.latency_samples)).shape[-1] == 0
    hop, none = (streamer.feed(clip(1)).shape[-1] for _ in range(2))
    assert 0.1 <= hop / streamer.sample_rate <= 0.2
    assert none == 0
    assert (
        stream(form(name)).latency_samples
        <= (9.1 if form(name).config.normalize == "utterance" else 2.2) * 16_000
    )


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("num_samples", [1, 2, 1000, 30_000])
def test_what_fits_into_one_window_is_the_whole_clip(name: str, num_samples: int) -> None:
    model, noisy = form(name), clip(num_samples)
    out, expected = streamed(stream(model), noisy), whole(model, noisy)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5 * max(1e-3, float(expected.abs().max())))


@pytest.mark.parametrize("name", FORMS)
def test_windows_join_without_a_seam_where_the_level_is_known(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What context is missing hardly shows: the errors have a thousandth of the power that is allowed."""
    model, noisy = form(name), clip(16_000 + 77)
    expected = whole(model, noisy)
    at_level_of(model, noisy, monkeypatch)
    out = streamed(OverlapStreamer(model, **SHORT), noisy)
    assert si_sdr_db(expected, out).item() > 60


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_originals_are_near_the_whole_clip_though_the_level_is_not_known(name: str) -> None:
    model, noisy = form(name), clip(16_000 * 12 + 77)
    streamer, expected = OverlapStreamer(model), whole(model, noisy)
    parts = [*(streamer.feed(part) for part in noisy.split(1000, -1)), streamer.flush()]
    out = torch.cat(parts, -1)
    hop = next(part.shape[-1] for part in parts if part.shape[-1])
    wait, fade = streamer.latency_samples + 1 - hop, round(FADE_S * streamer.sample_rate)
    overall_db = si_sdr_db(expected, out).item()
    assert overall_db >= 30
    seams = [n for n in range(hop, out.shape[-1], hop) if n + wait <= out.shape[-1]]
    assert len(seams) >= 4
    near = torch.cat([torch.arange(n - 800, n + fade + 800) for n in seams])
    # The last windows know the level best, the last of all knows all of it: compare with where seams are.
    among = slice(0, seams[-1] + fade + 800)
    among_db = si_sdr_db(expected[:, among], out[:, among]).item()
    assert si_sdr_db(expected[:, near], out[:, near]).item() >= among_db - 1


def test_the_level_is_that_of_all_that_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    model = form("gatewave-original")
    noisy = 0.3 + torch.linspace(0.1, 2, 20_000) * clip(20_000, batch=2) * torch.tensor([[1.0], [30.0]])
    levels, ends, scales = [], [], overlap._HeardLevel.scales

    def recording(self: object, heard_BT: Tensor, num_new: int) -> tuple[Tensor, Tensor]:
        divisor, factor = scales(self, heard_BT, num_new)
        torch.testing.assert_close(divisor, factor + model.config.level_floor)
        levels.append(factor)
        ends.append(num_new + (ends[-1] if ends else 0))
        return divisor, factor

    monkeypatch.setattr("ww_models.streaming.overlap._HeardLevel.scales", recording)
    streamed(OverlapStreamer(model, batch=2, **SHORT), noisy)
    assert len(ends) > 5
    assert ends[-1] == 20_000
    for level, end in zip(levels, ends, strict=True):
        torch.testing.assert_close(level, noisy[:, :end].std(-1, keepdim=True), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["gatewave-original", "waveunet-original", "demucs-original running"])
def test_streams_in_lock_step_are_each_as_alone_and_reset_forgets(name: str) -> None:
    model = form(name)
    noisy = clip(9000, batch=3) * torch.tensor([[1.0], [100.0], [0.01]])
    streamer = OverlapStreamer(model, batch=3, **SHORT)
    streamer.feed(17 * noisy)
    streamer.reset()
    together = streamed(streamer, noisy)
    for row in range(3):
        alone = streamed(OverlapStreamer(model, **SHORT), noisy[row : row + 1])
        error = (together[row] - alone[0]).abs().max() / alone.abs().max()
        assert error <= 1e-5
    streamer.reset()
    assert torch.equal(streamed(streamer, noisy), together)


def test_weights_are_those_of_when_the_streamer_was_made() -> None:
    model, noisy = heard(small("gatewave-original")), clip(3000)
    expected = whole(model, noisy)
    streamer = stream(model.train())
    assert model.training
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.add_(1)
    torch.testing.assert_close(streamed(streamer, noisy), expected)


def test_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = form("gatewave-original running")
    lengths: list[int] = []
    denoise = type(model).denoise

    def recording(self: Denoiser, scaled: Tensor) -> Tensor:
        lengths.append(scaled.shape[-1])
        return denoise(self, scaled)

    monkeypatch.setattr(type(model), "denoise", recording)
    streamer = OverlapStreamer(model, **SHORT)
    noisy = clip(16_000)
    streamer.feed(noisy)
    held = held_bytes(streamer)
    for _ in range(10):
        streamer.feed(noisy)
        assert held_bytes(streamer) <= held + 4 * 8000, "half a second more than at first"
    streamer.flush()
    assert max(lengths) <= 0.5 * 16_000
    assert len(lengths) <= 11 / SHORT["hop_s"], "a window for each hop"


def test_arrays_give_arrays_that_stay_what_they_were() -> None:
    streamer = OverlapStreamer(form("gatewave-original"), **SHORT)
    first = streamer.feed(clip(9000).numpy())
    kept = first.copy()
    second, rest = streamer.feed(clip(9000, seed=1).numpy()), streamer.flush()
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float32 for part in (first, second, rest))
    assert np.array_equal(first, kept)
    assert first.shape[-1] + second.shape[-1] + rest.shape[-1] == 18_000


def test_after_flush_the_stream_is_at_its_end() -> None:
    streamer = OverlapStreamer(form("gatewave-original"), batch=2)
    streamer.feed(clip(10, batch=2))
    assert streamer.flush().shape == (2, 10)
    assert streamer.flush().shape == (2, 0)
    with pytest.raises(ValueError, match=r"was flushed.*call reset\(\)"):
        streamer.feed(clip(10, batch=2))
    streamer.reset()
    assert streamer.flush().shape == (2, 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 7), torch.nan), "got 7 that are NaN, infinite"),
        (np.zeros((1, 7)), "got float64: convert"),
        (torch.zeros(7), r"shape \(1, samples\), got \(7,\)"),
        (torch.zeros(2, 7), r"got \(2, 7\): mix several channels down"),
        (torch.zeros(1, 0), "got an empty chunk"),
        ([0.5], "got list"),
    ],
)
def test_a_bad_chunk_is_refused_and_changes_nothing(bad: object, message: str) -> None:
    noisy, streamer = clip(9000), OverlapStreamer(form("gatewave-original"), **SHORT)
    first = streamer.feed(noisy[:, :5000])
    with pytest.raises(ValueError, match=message):
        streamer.feed(bad)
    out = torch.cat([first, streamer.feed(noisy[:, 5000:]), streamer.flush()], -1)
    assert torch.equal(out, streamed(OverlapStreamer(form("gatewave-original"), **SHORT), noisy, size=5000))


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"hop_s": 0.0, "fade_s": 0.0}, "hop_s is 0.0.*above 0"),
        ({"hop_s": 0.1, "fade_s": 0.2}, "hop_s is 0.1 and fade_s 0.2: give a hop.*at least the fade"),
        ({"past_s": -1.0}, "past_s is -1.0: give a number of seconds, 0 or more"),
        ({"ahead_s": float("nan")}, "ahead_s is nan"),
        ({"level_ahead_s": float("inf")}, "level_ahead_s is inf"),
        ({"batch": 0}, "batch is 0: give the number of streams"),
    ],
)
def test_impossible_windows_are_refused(windows: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OverlapStreamer(form("gatewave-original"), **windows)


def test_without_context_or_fade_it_still_gives_every_sample() -> None:
    streamer = OverlapStreamer(
        form("gatewave-original"), hop_s=0.1, past_s=0, ahead_s=0, level_ahead_s=0, fade_s=0
    )
    assert streamer.latency_samples < 0.2 * streamer.sample_rate, "nothing but the hop"
    assert streamed(streamer, clip(5000)).shape == (1, 5000)
