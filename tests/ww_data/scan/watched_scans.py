"""Scans that are watched: which files they read, where they die, which splits come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ww_data import Manifest


class StopError(Exception):
    """The death of a run."""


def counting(read: list[str], stop_after: int = 1000) -> Any:
    """An executor that notes in `read` which files are read, and dies after some chunks of them."""

    def execute(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        for index, item in enumerate(items):
            if index == stop_after:
                raise StopError
            read.extend(recording.id for recording in item)
            yield function(item)

    return execute


def splits_of(manifest: Manifest, key: str = "id") -> dict[str, str]:
    """{key of a clip, its id say: its split} of those that are used."""
    return {getattr(clip, key): clip.split for clip in manifest.clips if clip.split}
