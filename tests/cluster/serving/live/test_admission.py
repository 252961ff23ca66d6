"""Calls begin a few at a time, as long as steps come in time, whatever was measured at the start."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest

from cluster.serving.errors import ApiError
from cluster.serving.live.admission import Admission, Place

MAX_LOAD, HOP_S = 0.7, 0.016
SHARE = 1 / 32  # of each caller


class Machine:
    """Steps with the sound of all who have begun.

    slowness: how many times what they took at the start, by load. waited: before each, in hops.
    """

    def __init__(self, slowness: Callable[[float], float] = lambda load: 1.0) -> None:
        self.slowness, self.waited, self.is_stuck = slowness, 0.0, False
        self.admission = Admission(MAX_LOAD, lambda: 9.0 if self.is_stuck else 0.0)
        self.places: list[Place] = []

    @property
    def load(self) -> float:
        return sum(place.share for place in self.places if place.has_begun)

    @contextlib.asynccontextmanager
    async def running(self) -> None:
        stepping = asyncio.create_task(self._step())
        try:
            yield
        finally:
            stepping.cancel()

    async def _step(self) -> None:
        while True:
            if self.load and not self.is_stuck:
                expected = MAX_LOAD * self.load
                self.admission.note_step(self.waited, expected * self.slowness(self.load), expected)
            await asyncio.sleep(HOP_S)

    async def call(self, share: float = SHARE) -> bool:
        """Whether a call could begin."""
        place = Place(self.admission, share)
        self.places.append(place)
        try:
            await place.begin()
        except ApiError as error:
            return (error.status, error.code, error.headers["Retry-After"]) != (503, "busy", "5")
        return True

    async def calls(self, number: int) -> int:
        """How many of so many at once could begin."""
        return sum(await asyncio.gather(*(self.call() for _ in range(number))))


def test_on_a_machine_of_its_own_all_begin_within_moments_but_not_at_once() -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.running():
            calls = asyncio.create_task(machine.calls(32))
            await asyncio.sleep(0.05)
            assert sum(place.has_begun for place in machine.places) == 4, "an eighth of all"
            assert await calls == 32

    asyncio.run(scenario())


def test_silent_calls_keep_nobody_out_for_long() -> None:
    async def scenario() -> None:
        machine = Machine()  # without any steps
        assert await machine.calls(8) == 8

    asyncio.run(scenario())


@pytest.mark.parametrize("factor", [2, 4])
def test_beside_others_no_more_begin_than_steps_leave_room_for(factor: int) -> None:
    async def scenario() -> None:
        machine = Machine(lambda load: factor)
        async with machine.running():
            num_begun = await machine.calls(32)
            with pytest.raises(ApiError, match="as this machine carries in real time now; try again in 5 s"):
                machine.admission.check(SHARE)
        assert num_begun >= 4
        assert MAX_LOAD * machine.load * factor <= (1 + MAX_LOAD) / 2, "a step takes too much of a hop"

    asyncio.run(scenario())


def test_where_time_runs_out_all_of_a_sudden_those_who_are_in_have_not_been_joined_by_many() -> None:
    """As where a neighbour leaves half of a core: steps take little longer up to there, and ten times beyond."""

    async def scenario() -> None:
        machine = Machine(lambda load: 1.5 if load <= 0.5 else 10)
        async with machine.running():
            await machine.calls(32)
            assert machine.load <= 0.75
            assert not await machine.call()

    asyncio.run(scenario())


def test_while_steps_come_late_nobody_begins_and_later_some_do() -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.running():
            assert await machine.calls(4) == 4
            machine.slowness = lambda load: 20
            await asyncio.sleep(0.3)
            began = time.monotonic()
            assert await machine.calls(3) == 0
            assert time.monotonic() - began < 4
            machine.slowness, machine.waited = (lambda load: 1), 0.8
            await asyncio.sleep(2.1)
            assert await machine.calls(3) == 0
            machine.waited = 0.3
            await asyncio.sleep(2.1)
            assert await machine.calls(3) == 3

    asyncio.run(scenario())


def test_while_a_step_hangs_nobody_begins() -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.running():
            assert await machine.call()
            machine.is_stuck = True
            assert not await machine.call()
            machine.is_stuck = False
            assert await machine.call()

    asyncio.run(scenario())


def test_one_call_may_always_begin_and_who_leaves_makes_room() -> None:
    async def scenario() -> None:
        machine = Machine(lambda load: 20)
        async with machine.running():
            assert await machine.call()
            await asyncio.sleep(0.3)
            assert not await machine.call()
            machine.places[0].end()
            assert await machine.call()

    asyncio.run(scenario())


def test_who_gives_up_while_waiting_leaves_the_others_their_turn() -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.running():
            assert await machine.calls(4) == 4
            waiting = [asyncio.create_task(machine.call()) for _ in range(3)]
            await asyncio.sleep(0.02)
            waiting[0].cancel()
            assert await asyncio.gather(*waiting[1:]) == [True, True]

    asyncio.run(scenario())
