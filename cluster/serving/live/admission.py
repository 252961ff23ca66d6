"""Which calls may begin now: as many as steps leave room for at the moment, a few at a time.

How many a machine carries was measured when nobody called. Beside other programs a step takes longer, and how much
longer shows when sound is worked on, and only then. So a call begins with its first sound, and the next few when steps
with the sound of those before have been seen to come in time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable

from cluster.serving.errors import ApiError, busy

RETRY_AFTER_S = 5
# How long steps are looked at after a call has begun, and how far back: a peak of a moment ago counts, too.
_SEEN_S, _REMEMBERED_S = 0.25, 2.0
_UNSEEN_SHARE = 1 / 8  # that may begin while nothing is known
_LONGEST_WAIT_S, _POLL_S = 2.0, 0.02
_STUCK_S = 0.1  # a step that takes so long tells nothing yet, and is bad news


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    when: float  # it was over
    waited: float
    worked: float
    expected: float


_NONE = _Step(0.0, 0.0, 0.0, 1.0)


class Admission:
    """Of the calls of one event loop. A share is of what the process carries when nothing else runs, 0 to 1.

    Times of steps are in hops: a step must be over when the next hop has come.
    max_load: what steps take at a share of 1, as measured when nothing else ran.
    overdue_s: how long the step has taken by now that should be over, in seconds.
    """

    def __init__(self, max_load: float, overdue_s: Callable[[], float]) -> None:
        self._max_load, self._most = max_load, (1 + max_load) / 2
        self._overdue_s = overdue_s
        self._begun: dict[Place, float] = {}  # and when
        self._queue = asyncio.Lock()
        self._steps: deque[_Step] = deque()

    def note_step(self, waited: float, worked: float, expected: float) -> None:
        """A step is over.

        waited: for the CPU, from when it was due. worked: until its sound was handed on. expected: of that, when
        nothing else runs.
        """
        now = time.monotonic()
        self._steps.append(_Step(now, waited, worked, expected))
        while self._steps[0].when < now - _REMEMBERED_S:
            self._steps.popleft()

    def check(self, share: float) -> None:
        """Raises a 503 where steps come too late for a call of this share."""
        if not self._fits(share):
            raise self._refusal()

    async def begin(self, place: Place) -> None:
        """Returns when the call of this place may begin. Raises a 503 if that is not soon."""
        deadline = time.monotonic() + _LONGEST_WAIT_S
        async with self._queue:
            while not (self._fits(place.share) and self._is_seen(place.share)):
                if time.monotonic() > deadline:
                    raise self._refusal()
                await asyncio.sleep(_POLL_S)
            self._begun[place] = time.monotonic()

    def end(self, place: Place) -> None:
        self._begun.pop(place, None)

    def _fits(self, share: float) -> bool:
        """Whether steps would still come in time with one more call of this share, by what they take now."""
        if not self._begun:
            return True
        load = sum(place.share for place in self._begun) + share
        predicted = self._waited() + self._slowness() * load * self._max_load
        return self._overdue_s() < _STUCK_S and predicted <= self._most

    def _is_seen(self, share: float) -> bool:
        """Whether enough is known of those who have begun. The slower steps are, the less each of them tells."""
        now = time.monotonic()
        unseen = sum(place.share for place, began in self._begun.items() if began > now - _SEEN_S)
        seen = sum(place.share for place in self._begun) - unseen
        return not unseen or unseen + share <= max(_UNSEEN_SHARE, seen / 2) / max(1.0, self._slowness())

    def _slowness(self) -> float:
        """How many times as long steps work as they did at the start."""
        return max(
            sum(step.worked for step in steps) / sum(step.expected for step in steps)
            for steps in self._recent()
        )

    def _waited(self) -> float:
        """How long steps wait for the CPU, on average."""
        return max(sum(step.waited for step in steps) / len(steps) for steps in self._recent())

    def _recent(self) -> list[list[_Step]]:
        """The steps of the last moments, and those of a little longer."""
        now = time.monotonic()
        return [
            [step for step in self._steps if step.when > now - seconds] or [_NONE]
            for seconds in (_SEEN_S, _REMEMBERED_S)
        ]

    def _refusal(self) -> ApiError:
        what = f"{len(self._begun)} sessions are live, as many as this machine carries in real time now"
        return busy(f"{what}; try again in {RETRY_AFTER_S} s", RETRY_AFTER_S)


class Place:
    """One call's, from its connection to its end."""

    def __init__(self, admission: Admission, share: float, *, has_begun: bool = False) -> None:
        self._admission, self.share, self.has_begun = admission, share, has_begun

    async def begin(self) -> None:
        """To be awaited before the first sound; see `Admission.begin`."""
        if not self.has_begun:
            await self._admission.begin(self)
            self.has_begun = True

    def end(self) -> None:
        self._admission.end(self)
