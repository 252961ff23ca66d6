"""What is wrong with a file, in one line."""

from __future__ import annotations

import os

_WORDS_FOR_UNKNOWN = ("not implemented", "not yet implemented", "not found")


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
    return AudioError(f"is cut short ({max(0, came)} of {promised} {unit} are there): copy it again")


def damaged(place: int) -> AudioError:
    """For a file with a hole in it, so many bytes from its beginning."""
    return AudioError(f"is damaged: what should follow its first {place} bytes does not: copy it again")


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


def unreadable(why: str) -> AudioError:
    return AudioError(f"cannot be read as audio ({why}): convert it to WAV or FLAC")


def bad_beginning(error: BaseException) -> AudioError:
    """For what a decoder does not begin with."""
    return _of_decoder(error, "its beginning")


def bad_sound(error: BaseException | None = None) -> AudioError:
    """For what a decoder does not go on with."""
    return _of_decoder(error, "a part of its sound")


def _of_decoder(error: BaseException | None, what: str) -> AudioError:
    """Its own words are about its insides: they only tell two cases apart."""
    if any(word in str(error).lower() for word in _WORDS_FOR_UNKNOWN):
        return unreadable("its sound is stored in a way that is not known here")
    return AudioError(f"cannot be read as audio ({what} is damaged): copy it again")
