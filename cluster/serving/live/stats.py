"""What a live call reports about itself: how long its sound takes, and whether the server is behind."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cluster.monitoring.metrics import LIVE_AUDIO, LIVE_COMPUTE, LIVE_PROCESSING
from cluster.serving.live.sound import CallSound

_NUM_REMEMBERED = 640  # pieces of sound: ten seconds in pieces of 16 ms
_CAUGHT_UP = 0.2  # of the time that counts as an overrun


class LiveStats:
    """overrun_s: how old sound may be that the model has not finished, before that is said.

    unfed_s: how much sound waits before `sound`, in seconds.
    """

    def __init__(self, sound: CallSound, overrun_s: float, unfed_s: Callable[[], float]) -> None:
        self._sound, self._overrun_s, self._unfed_s = sound, overrun_s, unfed_s
        self.is_overrun = False
        # When sound came that is not finished yet: (samples fed by then, at the model's rate; seconds).
        self._pending: deque[tuple[int, float]] = deque()
        self._processing_s: deque[float] = deque(maxlen=_NUM_REMEMBERED)
        self._compute_s, self._audio_s, self._total_s = 0.0, 0.0, 0.0

    def came(self) -> None:
        """Sound was fed to the model."""
        if self._sound.behind_samples:
            self._pending.append((self._sound.fed, time.monotonic()))

    def finished(self, num_samples: int, compute_s: float) -> None:
        """The model has returned samples per channel, at its rate; compute_s: this call's share of the time."""
        self._compute_s += compute_s
        self._audio_s += num_samples / self._sound.model_rate
        done, now = self._sound.fed - self._sound.behind_samples, time.monotonic()
        while self._pending and self._pending[0][0] <= done:
            self._processing_s.append(now - self._pending.popleft()[1])

    def restarted(self) -> None:
        """A new stream begins."""
        self._pending.clear()

    def overrun_changed(self) -> dict[str, Any] | None:
        """The message to send when the server fell behind or has caught up since this was last asked."""
        behind_s = time.monotonic() - self._pending[0][1] if self._pending else 0.0
        if not self.is_overrun and behind_s > self._overrun_s:
            self.is_overrun = True
            return {"type": "overrun", "buffered_ms": self.buffered_ms}
        if self.is_overrun and behind_s < _CAUGHT_UP * self._overrun_s:
            self.is_overrun = False
            return {"type": "overrun.ended"}
        return None

    @property
    def buffered_ms(self) -> float:
        return round(1000 * (self._unfed_s() + self._sound.behind_samples / self._sound.model_rate), 1)

    @property
    def has_news(self) -> bool:
        """Whether the model has returned anything since the last `message`."""
        return self._audio_s > 0

    def publish(self, model: str) -> None:
        """As metrics of the process: what has come since the last `message`, which is for the caller. model: its id."""
        LIVE_AUDIO.add(self._audio_s, model=model)
        LIVE_COMPUTE.add(self._compute_s, model=model)
        if self._audio_s and self._processing_s:  # of many pieces the last one, since each costs a little
            LIVE_PROCESSING.observe(self._processing_s[-1], model=model)

    def message(self) -> dict[str, Any]:
        """The `stats` message; the real-time factor is that of the time since the last one."""
        times_ms = sorted(1000 * seconds for seconds in self._processing_s)
        self._total_s += self._audio_s
        real_time_factor = self._compute_s / self._audio_s if self._audio_s else 0.0
        self._compute_s = self._audio_s = 0.0
        return {
            "type": "stats",
            "real_time_factor": round(real_time_factor, 5),
            "processing_ms_p50": _percentile(times_ms, 0.5),
            "processing_ms_p99": _percentile(times_ms, 0.99),
            "buffered_ms": self.buffered_ms,
            "clipped_samples": self._sound.num_clipped,
            "seconds": round(self._total_s, 3),
        }


def _percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least this share does not exceed; 0 of none."""
    return round(ordered[math.ceil(share * len(ordered)) - 1], 2) if ordered else 0.0
