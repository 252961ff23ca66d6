"""Denoises recordings: files and whole folders, on this machine, without a cluster.

The results have the inputs' sample rate, channels, length and file names, below --out as they lie below the
folders that were named. WAV, FLAC and OGG stay what they are; others (MP3, M4A, WebM, ...) become WAV. A file that
cannot be read is named and left out, and the exit code says so at the end. No input is ever overwritten.

example: python -m jobs.enhance interview.wav recordings/
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's own threads wait for each other busily

from cluster.enhancement import FORMATS, FileDenoiser, torch_threads
from cluster.errors import one_line
from cluster.machine.progress import Report, progress
from cluster.sound.bands import BANDS
from cluster.sound.level import saturation_note
from cluster.sound.strength import OPTIONS, strength_from
from cluster.taken_away import write_taken_away
from jobs.cli import main, make_parser
from ww_data import Storage
from ww_data.audio import source_name
from ww_data.scan.files import find_audio
from ww_models import PRETRAINED, load_bundle, pretrained_note


def parser() -> argparse.ArgumentParser:
    parser = make_parser("enhance", __doc__)
    option = parser.option
    option("inputs FILE_OR_DIR", "recordings, or folders of them", nargs="+")
    option("--bundle DIR", "bundle to enhance with (default: the one that comes with Wave Wizard)")
    option("--out DIR", "folder for the results", default="enhanced")
    option("--strength S", "share of the enhanced signal, 0 (input) to 1; the rest is the input", type=float)
    most = "take at most so many dB of the noise away, instead of all (20 dB leave a tenth of it); or give --strength"
    option("--max-attenuation DB", most, type=float)
    option(
        "--band",
        "full keeps what a recording has above the band of the model (8 kHz of one at 16 kHz), with its noise turned "
        "down; model leaves it out",
        choices=BANDS,
        default="full",
    )
    option("--keep-noise DIR", "write what was taken away, too: input minus result, below this folder")
    option("--threads N", "threads; more than one only helps on idle cores", type=int, default=1)
    return parser


@dataclasses.dataclass(frozen=True)
class Task:
    """One recording and where its result goes; problem: why it cannot be read, known beforehand.

    noise: where that goes which is taken away, if it is kept.
    """

    source: Path
    target: Path
    problem: str = ""
    noise: Path | None = None


def run(arguments: argparse.Namespace) -> None:
    strength = strength_from(arguments.strength, arguments.max_attenuation, OPTIONS)
    if arguments.threads < 1:
        raise ValueError(f"--threads must be at least 1; got {arguments.threads}")
    Storage(arguments.out).check_writable()
    tasks = list(plan(arguments.inputs, Path(arguments.out)))
    if arguments.keep_noise:
        Storage(arguments.keep_noise).check_writable()
        tasks = [_keeping_noise(task, Path(arguments.out), Path(arguments.keep_noise)) for task in tasks]
    check_targets(tasks)
    if not arguments.bundle:
        print(pretrained_note())
    model = load_bundle(arguments.bundle or PRETRAINED)
    failures, notes = [], []
    with progress("enhancing") as report, torch_threads(arguments.threads):
        report(0, len(tasks), "preparing the model")
        denoiser = FileDenoiser(model, arguments.threads)
        for number, task in enumerate(tasks):
            try:
                if task.problem:
                    raise ValueError(task.problem)
                note = functools.partial(_note, report, number, len(tasks), task.source.name)
                note(0.0)
                peak = denoiser.enhance(task.source, task.target, strength, note, arguments.band)
                if task.noise:
                    write_taken_away(task.source, task.target, task.noise)
                notes.append(saturation_note(source_name(task.source), peak))
            except (ValueError, OSError) as error:
                problem = str(error).removeprefix(f"{source_name(task.source)}: ")
                failures.append(f"skipped {task.source}: {one_line(problem)}")
        report(len(tasks), len(tasks), "")
    for text in filter(None, notes):
        print(f"note: {text}")
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{len(tasks) - len(failures)} of {len(tasks)} recordings enhanced, in {arguments.out}")
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(tasks)} recordings could not be enhanced; they are named above"
        )


def _keeping_noise(task: Task, out: Path, folder: Path) -> Task:
    return dataclasses.replace(task, noise=folder / task.target.relative_to(out))


def plan(inputs: Sequence[str], out: Path) -> Iterator[Task]:
    """A task for every recording; folders are searched to any depth, earlier results in `out` left out.

    Raises ValueError for an input that does not exist and for a folder without recordings.
    """
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            results = out if _lies_in(out, path) and not _lies_in(path, out) else None
            found = [
                item for item in find_audio(path) if not (results and _lies_in(Path(item.path), results))
            ]
            if not found:
                raise ValueError(
                    f"no recordings in {path}; expected WAV, FLAC, OGG, MP3 or the like, at any depth"
                )
            for item in found:
                yield Task(Path(item.path), _target(out / item.name), item.skip_reason)
        elif path.exists():
            yield Task(path, _target(out / path.name))
        else:
            raise ValueError(f"{path} does not exist; name a recording or a folder of recordings")


def check_targets(tasks: Sequence[Task]) -> None:
    """Raises ValueError where a result would replace an input or another result, before any is written."""
    sources = {_real(task.source) for task in tasks}
    seen: dict[Path, Path] = {}
    for task in tasks:
        for path in filter(None, (task.target, task.noise)):
            target = _real(path)
            if target in sources:
                raise ValueError(
                    f"{path} is an input and would be overwritten; choose another folder for results"
                )
            if target in seen:
                raise ValueError(
                    f"{seen[target]} and {task.source} would both become {path}; enhance them apart"
                )
            seen[target] = task.source


def _note(report: Report, number: int, num_tasks: int, name: str, share: float) -> None:
    """How far a recording is."""
    report(number, num_tasks, f"{name} {share:.0%}")


def _target(path: Path) -> Path:
    """The result's name: formats that are not written (MP3 pads its ends, for one) become WAV."""
    return path if path.suffix.lower() in FORMATS else path.with_suffix(".wav")


def _lies_in(path: Path, folder: Path) -> bool:
    return _real(path).is_relative_to(_real(folder))


def _real(path: Path) -> Path:
    """Like resolve(), which raises on a link to itself."""
    return Path(os.path.realpath(path))


if __name__ == "__main__":
    main(parser(), run)
