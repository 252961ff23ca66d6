"""What is wrong with a file, in one line."""

from __future__ import annotations

import os


class AudioError(ValueError):
    """A file or buffer that cannot be used as audio. One line: which file, what came, what to do."""


def source_name(source: object) -> str:
    """What to call a source in an error message."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsencode(source).decode("utf-8", "replace")
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else "the given file"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


def cut_short(came: int, promised: int, unit: str) -> AudioError:
    """For a file that ends before its header says."""
    return AudioError(f"is cut short ({came} of {promised} {unit} are there): copy it again")


def damaged(place: int) -> AudioError:
    """For a file with a hole in it, so many bytes from its beginning."""
    return AudioError(f"is damaged: what should follow its first {place} bytes does not: copy it again")


def damaged_within() -> AudioError:
    """For a file that is as long as it should be, with a part in it that is not what its writer wrote."""
    return AudioError("is damaged: a part of its sound does not match its checksums: copy it again")


def longer_than_it_says(came: int, rest: int) -> AudioError:
    what = f"{came} bytes by its header, and {rest} more follow"
    return AudioError(
        f"is longer than it says ({what}): it was not closed, or is several files; convert it anew"
    )


def has_gaps(came: int, by_clock: int) -> AudioError:
    """For a file that is whole, but whose clock goes on where no sound was recorded."""
    return AudioError(
        f"leaves out sound ({came} of {by_clock} samples by its clock are there): convert it to WAV or FLAC"
    )


def several_tracks(num_tracks: int) -> AudioError:
    """For sounds side by side, such as a film's languages."""
    return AudioError(f"holds {num_tracks} sound tracks: save the one you mean as a file of its own")


def unreadable(why: object) -> AudioError:
    """For what a decoder refuses; errors of both decoders have a text without a file's name in it."""
    text = getattr(why, "error_string", None) or getattr(why, "strerror", None) or str(why)
    return AudioError(
        f"cannot be read as audio ({' '.join(text.split()).rstrip('.')}): convert it to WAV or FLAC"
    )
