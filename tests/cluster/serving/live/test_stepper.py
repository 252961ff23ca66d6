"""The stepper: many streams in one batch, each as if it were alone, whatever the others do."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.serving.live.batch import LiveStream
from cluster.serving.live.stepper import Stepper
from cluster.serving.models import ServedModel, ServedModels, load_model
from tests.cluster.serving.engines import watched
from ww_models import Streamer
from ww_models.streaming.engine import Samples

HOP = 256


@pytest.fixture
def stepper() -> Iterator[Stepper]:
    stepper = Stepper()
    yield stepper
    stepper.close()


class Caller:
    """What one stream returned."""

    def __init__(self, stepper: Stepper, model: ServedModel, num_channels: int = 1) -> None:
        self.clean: list[Samples] = []
        self.errors: list[Exception] = []
        self.stream: LiveStream = stepper.open(
            model, num_channels, 8, lambda samples, _: self.clean.append(samples), self.errors.append
        )

    @property
    def samples(self) -> Samples:
        return np.concatenate(self.clean, axis=-1)

    @property
    def num_samples(self) -> int:
        return sum(samples.shape[-1] for samples in self.clean)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


def sound(seed: int, num_samples: int = 20 * HOP, num_channels: int = 1) -> Samples:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((num_channels, num_samples))).astype(np.float32)


def alone(model: ServedModel, samples: Samples) -> Samples:
    assert model.engine is not None
    return np.asarray(Streamer(model.engine, len(samples)).feed(samples))


def test_each_stream_gets_what_it_would_get_alone(models: ServedModels, stepper: Stepper) -> None:
    model = models.default
    sounds = [sound(seed, num_channels=1 + seed % 2) for seed in range(5)]

    async def scenario() -> list[Caller]:
        callers = [Caller(stepper, model, len(samples)) for samples in sounds]
        rng = np.random.default_rng(0)
        position = [0] * len(callers)
        while any(position[i] < sounds[i].shape[-1] for i in range(5)):
            i = int(rng.integers(5))
            size = int(rng.integers(1, 900))
            callers[i].stream.feed(sounds[i][:, position[i] : position[i] + size])
            position[i] += size
            if rng.random() < 0.3:
                await asyncio.sleep(0.001)
        expected = [alone(model, samples).shape[-1] for samples in sounds]
        await until(lambda: [caller.num_samples for caller in callers] == expected)
        return callers

    for caller, samples in zip(asyncio.run(scenario()), sounds, strict=True):
        np.testing.assert_allclose(caller.samples, alone(model, samples), atol=1e-6)
        assert not caller.errors


def test_streams_that_come_together_share_their_steps(models: ServedModels, stepper: Stepper) -> None:
    model, engine = watched(models.default)

    async def scenario() -> None:
        callers = [Caller(stepper, model) for _ in range(6)]
        for number in range(10):
            for caller in callers:
                caller.stream.feed(sound(number, HOP))
            await until(lambda number=number: sum(engine.batch_sizes) == 6 * (number + 1))

    asyncio.run(scenario())
    # The first of a round may be stepped alone, when nobody was known to be alive.
    assert len(engine.batch_sizes) <= 20
    assert max(engine.batch_sizes) == 6


def test_a_backlog_takes_one_row_of_each_step(models: ServedModels, stepper: Stepper) -> None:
    model, engine = watched(models.default)

    async def scenario() -> None:
        fast, steady = Caller(stepper, model), Caller(stepper, model)
        engine.gate.clear()
        fast.stream.feed(sound(0, 100 * HOP))
        steady.stream.feed(sound(1, 2 * HOP))
        engine.gate.set()
        await until(lambda: steady.num_samples >= 2 * HOP - engine.latency_samples)
        assert len(engine.batch_sizes) < 100, "it had to wait for the other's backlog"
        await until(lambda: fast.num_samples >= 100 * HOP - engine.latency_samples)

    asyncio.run(scenario())
    assert max(engine.batch_sizes) == 2
    assert sum(engine.batch_sizes) == 102


def test_a_silent_stream_holds_up_nobody(models: ServedModels, stepper: Stepper) -> None:
    async def scenario() -> None:
        silent, talking = Caller(stepper, models.default), Caller(stepper, models.default)
        silent.stream.feed(sound(0, 3))
        for _ in range(20):
            before = talking.num_samples
            talking.stream.feed(sound(1, HOP))
            await until(lambda before=before: talking.num_samples > before or before == 0)
        await until(lambda: talking.num_samples > 15 * HOP)

    asyncio.run(scenario())


def test_an_error_ends_the_streams_of_that_model_and_no_others(
    models: ServedModels, stepper: Stepper
) -> None:
    broken, engine = watched(models.default)

    async def scenario() -> None:
        hit, spared = [Caller(stepper, broken) for _ in range(2)], Caller(stepper, models.default)
        for caller in (*hit, spared):
            caller.stream.feed(sound(0, 2 * HOP))
        await until(lambda: all(caller.num_samples for caller in (*hit, spared)))
        engine.fails = True
        for caller in (*hit, spared):
            caller.stream.feed(sound(1, 4 * HOP))
        await until(lambda: all(len(caller.errors) == 1 for caller in hit))
        await until(lambda: spared.num_samples > 4 * HOP)
        assert not spared.errors
        engine.fails = False
        later = Caller(stepper, broken)
        later.stream.feed(sound(2))
        await until(lambda: later.num_samples > 10 * HOP)
        np.testing.assert_allclose(
            later.samples, alone(models.default, sound(2))[:, : later.num_samples], atol=1e-6
        )

    asyncio.run(scenario())


def test_one_stream_too_many_hears_of_it(models: ServedModels, stepper: Stepper) -> None:
    async def scenario() -> None:
        callers = [Caller(stepper, models.default) for _ in range(9)]
        for caller in callers:
            caller.stream.feed(sound(0, HOP))
        await until(lambda: len(callers[8].errors) == 1)
        callers[0].stream.close()
        next_one = Caller(stepper, models.default)
        next_one.stream.feed(sound(1))
        await until(lambda: next_one.num_samples > 10 * HOP)
        assert not any(caller.errors for caller in callers[:8])

    asyncio.run(scenario())


def test_nothing_is_kept_of_streams_that_came_and_went(models: ServedModels, stepper: Stepper) -> None:
    async def scenario() -> None:
        callers = []
        for number in range(30):
            callers.append(caller := Caller(stepper, models.default))
            caller.stream.feed(sound(0, 2 * HOP))
            if number % 2:  # the others leave before they are stepped
                await until(lambda caller=caller: caller.num_samples > 0)
            caller.stream.close()
        callers.append(
            last := Caller(stepper, models.default, num_channels=8)
        )  # which are all that there are
        samples = sound(1, num_channels=8)
        last.stream.feed(samples)
        await until(lambda: last.num_samples > 10 * HOP or bool(last.errors))
        assert not any(caller.errors for caller in callers)
        expected = alone(models.default, samples)[:, : last.num_samples]
        np.testing.assert_allclose(last.samples, expected, atol=1e-6)

    asyncio.run(scenario())


def test_the_batch_of_a_model_goes_with_the_model(bundle: Path, stepper: Stepper) -> None:
    async def speak() -> weakref.ref:
        model = load_model(bundle)
        caller = Caller(stepper, model)
        caller.stream.feed(sound(0))
        await until(lambda: caller.num_samples > 10 * HOP)
        caller.stream.close()
        return weakref.ref(model.engine)

    async def scenario() -> None:
        gone = await speak()

        def is_gone() -> bool:
            gc.collect()
            return gone() is None

        await until(is_gone)

    asyncio.run(scenario())
