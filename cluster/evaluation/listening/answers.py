"""What listeners answer: a line of JSON for each screen, appended and on the disk before the page hears of it.

    {"format": "wave-wizard-listening", "format_version": 1, "at": ISO time, "listener", "session", "mode",
     "report": its identity, "clip": mixture_id, "snr_db", "order": stimuli from A on, "plays": {stimulus: times},
     "seconds", "comment", and "ratings": {stimulus: 0..100} (mushra) or "preferred": a system or null (ab)}

In `plays` the open reference is "reference", the hidden one "clean". Whoever goes back and answers anew adds a line;
the last one of a listener and a clip counts.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.evaluation.listening.source import ListeningError

FORMAT, FORMAT_VERSION = "wave-wizard-listening", 1
_HEAD = f'{{"format": "{FORMAT}", "format_version": {FORMAT_VERSION}, '.encode()  # of every line


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One screen that one listener has answered. ratings: of mushra. preferred: of ab; None is no difference."""

    at: str
    listener: str
    session: str
    mode: str
    report: str
    clip: str
    snr_db: float
    order: tuple[str, ...]
    plays: Mapping[str, int]
    seconds: float
    comment: str = ""
    ratings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    preferred: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listening:
    """A file of answers. num_damaged: lines that are no answers, such as what a crash left half-written."""

    answers: tuple[Answer, ...]
    num_damaged: int


def append_answer(path: Path, answer: Answer) -> None:
    """Adds a line and returns when the disk has it. Raises OSError, and then the file is as it was.

    Several processes may do so at once. Half a line of an earlier crash is left, on a line of its own.
    """
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(answer)}
    line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    is_new = not path.exists()
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            if file.write(line) != len(line):  # what a full disk does with a short line
                raise OSError(f"{path}: the disk took a part of a line only; is it full?")
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise
    if is_new:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A file's name is on the disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_listening(path: str | os.PathLike[str]) -> Listening:
    """All answers of a file, oldest first. Raises ListeningError if it cannot be read or is another kind of file."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        raise ListeningError(f"{path}: no answers yet; python -m jobs.listen collects them") from None
    except OSError as error:
        raise ListeningError(f"{path}: cannot be read ({error.strerror})") from None
    filled = [line for line in lines if line.strip()]
    answers = tuple(answer for line in filled if (answer := _parse(line)) is not None)
    if filled and not answers and not (filled[0].startswith(_HEAD) or _HEAD.startswith(filled[0])):
        raise ListeningError(f"{path}: holds no answers of a listening test; expected what jobs.listen wrote")
    return Listening(answers=answers, num_damaged=len(filled) - len(answers))


def _parse(line: bytes) -> Answer | None:
    """None for what is not whole: no beginning of a JSON object is one itself."""
    try:
        content: dict[str, Any] = json.loads(line)
        if (content.pop("format"), content.pop("format_version")) != (FORMAT, FORMAT_VERSION):
            return None
        content["order"] = tuple(map(str, content["order"]))
        content["ratings"] = {str(name): float(value) for name, value in content["ratings"].items()}
        return Answer(**content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def last_answers(answers: Iterable[Answer]) -> dict[tuple[str, str], Answer]:
    """{(listener, clip): what counts} in the order in which they were first given."""
    return {(answer.listener, answer.clip): answer for answer in answers}
