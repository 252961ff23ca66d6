"""Many streams in one batch: each gives what it gives alone, whatever the others do."""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ww_models.samples import heard, noise, small, speech_like
from ww_models import Denoiser
from ww_models.streaming.engine import Samples
from ww_models.streaming.streamer import StreamBatch, Streamer

NAMES = ["waveunet", "demucs", "demucs-x2", "gatewave", "bandmask"]


@cache
def causal(name: str) -> Denoiser:
    torch.manual_seed(0)
    return heard(small(name))


def signal(num_samples: int, seed: int, gain: float = 1.0) -> Samples:
    """(T,)"""
    return gain * (speech_like(num_samples, seed) + noise(num_samples, seed))[0, 0].numpy()


def alone(model: Denoiser, samples: Samples) -> Samples:
    """(T,) -> (T,)"""
    streamer = Streamer(model)
    parts = [streamer.feed(samples[None]), streamer.flush()] if len(samples) else []
    return np.concatenate([np.empty((1, 0), np.float32), *parts], -1)[0]


def assert_begins(expected: Samples, finished: Samples) -> None:
    """`finished` is the beginning of `expected`, to 1e-5 of its peak."""
    assert len(finished) <= len(expected)
    if len(finished):
        error = np.abs(finished - expected[: len(finished)]).max()
        assert error <= 1e-5 * max(1e-3, np.abs(expected).max())


@dataclass
class Caller:
    """What the test knows of one stream."""

    samples: Samples
    num_fed: int = 0
    finished: list[Samples] = field(default_factory=list)

    def take(self, num_samples: int) -> Samples:
        taken = self.samples[self.num_fed : self.num_fed + num_samples]
        self.num_fed += len(taken)
        return taken

    def check(self, model: Denoiser, *, is_whole: bool) -> None:
        finished = np.concatenate([np.empty(0, np.float32), *self.finished])
        assert_begins(alone(model, self.samples[: self.num_fed]), finished)
        assert not is_whole or len(finished) == self.num_fed


def collect(streams: StreamBatch, callers: dict[int, Caller]) -> int:
    """One step; returns how many streams took part."""
    given_out = streams.advance()
    for stream, finished in given_out.items():
        callers[stream].finished.append(finished)
    return len(given_out)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "feed", "feed", "feed", "advance", "advance", "leave", "flush"]),
        st.integers(0, 9999),
    ),
    min_size=10,
    max_size=80,
)


@pytest.mark.parametrize("name", NAMES)
@given(steps=STEPS)
@settings(max_examples=8, deadline=None)
def test_streams_that_come_and_go_are_each_as_alone(name: str, steps: list[tuple[str, int]]) -> None:
    model, streams = causal(name), StreamBatch(causal(name), max_streams=4)
    callers: dict[int, Caller] = {}
    num_joined = 0
    for what, number in [("join", 0), *steps]:
        if what == "advance":
            collect(streams, callers)
        elif what == "join" and len(callers) < 4:
            stream = streams.join()
            assert stream == num_joined, "a number is never given twice"
            # Every third stream is 40 dB louder than the others.
            callers[stream] = Caller(signal(6000, num_joined, gain=100.0 if num_joined % 3 == 1 else 1.0))
            num_joined += 1
        elif what == "join":
            with pytest.raises(ValueError, match="all 4 streams are taken: let one leave"):
                streams.join()
        elif callers:
            stream = sorted(callers)[number % len(callers)]
            caller = callers[stream]
            if what == "feed":
                chunk = caller.take(1 + number % 700)
                if len(chunk):
                    streams.feed(stream, chunk)
            else:
                if what == "leave":
                    streams.leave(stream)
                else:
                    caller.finished.append(streams.flush(stream))
                caller.check(model, is_whole=what == "flush")
                del callers[stream]
        assert len(streams) == len(callers)
    for stream in list(callers):
        callers[stream].finished.append(streams.flush(stream))
        callers.pop(stream).check(model, is_whole=True)
    assert len(streams) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_long_busy_batch(name: str) -> None:
    """64 streams, all at their own pace, some places used many times; nobody waits beyond the latency."""
    model, rng = causal(name), np.random.default_rng(0)
    streams = StreamBatch(model, max_streams=16)
    callers: dict[int, Caller] = {}
    num_joined = 0
    while callers or num_joined < 64:
        while len(callers) < 16 and num_joined < 64:
            length = int(rng.integers(1, 3000))
            callers[streams.join()] = Caller(signal(length, num_joined, 10.0 ** rng.uniform(-2, 2)))
            num_joined += 1
        for stream in rng.permutation(list(callers))[:10]:
            chunk = callers[stream].take(int(rng.integers(1, 600)))
            if len(chunk):
                streams.feed(int(stream), chunk)
        while collect(streams, callers):
            pass
        for caller in callers.values():
            assert sum(map(len, caller.finished)) >= caller.num_fed - streams.latency_samples
        for stream in [key for key, caller in callers.items() if caller.num_fed == len(caller.samples)]:
            callers[stream].finished.append(streams.flush(stream))
            callers.pop(stream).check(model, is_whole=True)


def test_streams_that_have_a_hop_share_one_step() -> None:
    streams = StreamBatch(causal("gatewave"), max_streams=3)
    first, second, third = (streams.join() for _ in range(3))
    assert streams.advance() == {}
    for stream in (first, third):
        streams.feed(stream, signal(2 * streams.engine.hop_samples, stream))
    streams.feed(second, signal(1, 0))
    for _ in range(2):
        assert set(streams.advance()) == {first, third}
    assert streams.advance() == {}


def test_a_place_that_is_left_is_free_and_clean() -> None:
    model = causal("gatewave")
    streams = StreamBatch(model, max_streams=1)
    loud = streams.join()
    streams.feed(loud, signal(3000, 0, gain=1000.0))
    streams.advance()
    streams.leave(loud)
    samples = signal(2000, 1)
    stream = streams.join()
    assert stream != loud
    streams.feed(stream, samples)
    assert_begins(alone(model, samples), streams.flush(stream))
    silent = streams.join()
    assert streams.flush(silent).shape == (0,)


@pytest.mark.parametrize("stream", [0, 1, 7, -1])
def test_a_stream_that_is_not_there_is_refused(stream: int) -> None:
    streams = StreamBatch(causal("gatewave"), max_streams=2)
    streams.leave(streams.join())
    for call in (streams.leave, streams.flush, lambda gone: streams.feed(gone, signal(9, 0))):
        with pytest.raises(
            ValueError, match=f"stream {stream} is not in the batch: it never joined, or it has left"
        ):
            call(stream)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([0, np.nan], np.float32), "got 1 that are NaN, infinite"),
        (torch.full((5,), torch.inf), "got 5 that are NaN, infinite"),
        (np.zeros(5), "got float64: convert"),
        (np.zeros(5, np.int16), "got int16: convert"),
        (np.zeros((1, 5), np.float32), r"shape \(samples\), got \(1, 5\)"),
        (np.zeros((2, 5), np.float32), r"shape \(samples\), got \(2, 5\): mix several channels down"),
        (torch.zeros(0), "got an empty chunk"),
        ([0.0, 0.1], r"shape \(samples\), got list"),
    ],
)
def test_a_bad_chunk_changes_nothing_for_anyone(bad: object, message: str) -> None:
    model, streams = causal("gatewave"), StreamBatch(causal("gatewave"), max_streams=2)
    callers = {streams.join(): Caller(signal(2000, seed)) for seed in range(2)}
    for stream, caller in callers.items():
        streams.feed(stream, caller.take(700))
    collect(streams, callers)
    with pytest.raises(ValueError, match=message):
        streams.feed(0, bad)
    for stream, caller in callers.items():
        streams.feed(stream, caller.take(1300))
        caller.finished.append(streams.flush(stream))
        caller.check(model, is_whole=True)


def test_what_no_batch_can_be_made_of_is_refused() -> None:
    with pytest.raises(ValueError, match="max_streams is 0: give at least 1"):
        StreamBatch(causal("gatewave"), max_streams=0)
    with pytest.raises(ValueError, match=r"has no streaming step.*ww_models.stream"):
        StreamBatch(small("gatewave-original"), max_streams=2)
