"""How fast jobs.prepare's work is per core, and whether its memory grows with the corpus.

    python benchmarks/preparation.py [--seconds N] [--files N] [--check]

Speed: seconds of audio per CPU second of one thread, for scanning and writing together (files are decoded twice), from
made-up 16 kHz and 44.1 kHz FLAC. Memory: the most that all processes of `python -m jobs.prepare` hold at once, for a
tenth of the files and for all of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import psutil
import soundfile
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ww_data import scan_corpus, write_corpus

Item = TypeVar("Item")
Result = TypeVar("Result")

ROOT = Path(__file__).resolve().parent.parent
BARS = {16_000: 1000.0, 44_100: 250.0}
MAX_GROWTH = 1.25  # of memory, for ten times the files


def main() -> None:
    arguments = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="ww-preparation-") as folder:
        warm_up(Path(folder))
        reached = report_speeds(Path(folder), arguments.seconds)
        if arguments.files:
            reached &= report_memory(Path(folder), arguments.files)
    if arguments.check and not reached:
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=1800, help="of audio per rate (default: 1800)")
    parser.add_argument(
        "--files", type=int, default=20_000, help="for memory; 0 leaves that out (default: 20000)"
    )
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    return parser


def one_by_one(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Runs without threads, so that this process' CPU time is that of one core."""
    return map(function, items)


class Speed(NamedTuple):
    """Seconds of audio, and the CPU seconds that scanning and writing them took."""

    audio_s: float
    scan_s: float
    write_s: float


def warm_up(folder: Path) -> None:
    """Imports and first calls are paid for before anything is measured."""
    measure_speed(folder, 48_000, num_files=10)


def report_speeds(folder: Path, seconds: int) -> bool:
    """Prints the table; whether all bars were reached."""
    table = Table(title="seconds of audio per CPU second, one thread")
    for column in ("files", "speech s", "scan", "write", "both", "bar", ""):
        table.add_column(column, justify="right")
    reached = True
    for rate, bar in BARS.items():
        num_files = seconds // 10
        speed = measure_speed(folder, rate, num_files)
        both = speed.audio_s / (speed.scan_s + speed.write_s)
        reached &= both >= bar
        table.add_row(
            f"{num_files} of {rate / 1000:g} kHz",
            f"{speed.audio_s:.0f}",
            f"{speed.audio_s / speed.scan_s:.0f}",
            f"{speed.audio_s / speed.write_s:.0f}",
            f"{both:.0f}",
            f">= {bar:.0f}",
            "met" if both >= bar else "missed",
        )
    Console(width=100).print(table)
    return reached


def measure_speed(folder: Path, rate: int, num_files: int) -> Speed:
    """Scans and writes made-up files of 10 s."""
    sounds = folder / str(rate)
    write_sounds(sounds, rate, num_files, 10.0)
    start = time.process_time()
    manifest = scan_corpus(sounds / "speech", sounds / "noise", executor=one_by_one)
    scanned = time.process_time()
    write_corpus(manifest, sounds / "corpus", executor=one_by_one, num_val_mixtures=1, num_test_mixtures=1)
    written = time.process_time()
    return Speed(sum(clip.seconds for clip in manifest.clips), scanned - start, written - scanned)


def report_memory(folder: Path, num_files: int) -> bool:
    """Prints the table; whether the bar was reached."""
    table = Table(title="python -m jobs.prepare: the most memory of all its processes together")
    for column in ("files", "wall s", "MiB", "against the first"):
        table.add_column(column, justify="right")
    first, growth = 0.0, 1.0
    for count in (num_files // 10, num_files):
        wall_s, peak_mib = measure_memory(folder / f"{count} files", count)
        first = first or peak_mib
        growth = peak_mib / first
        table.add_row(
            f"{count}",
            f"{wall_s:.0f}",
            f"{peak_mib:.0f}",
            f"x {growth:.2f} ({'met' if growth <= MAX_GROWTH else 'missed'}: at most x {MAX_GROWTH})",
        )
    Console(width=100).print(table)
    return growth <= MAX_GROWTH


def measure_memory(sounds: Path, num_files: int) -> tuple[float, float]:
    """Seconds that `jobs.prepare` takes for so many files of 1 s, and the most MiB that it holds."""
    write_sounds(sounds, 16_000, num_files, 1.0)
    command = [sys.executable, "-m", "jobs.prepare", "--speech", str(sounds / "speech")]
    command += ["--noise", str(sounds / "noise"), "--out", str(sounds / "corpus")]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ}) as process:
        peak = most_memory(process)
    if process.returncode:
        sys.exit(f"jobs.prepare ended with {process.returncode}")
    return time.perf_counter() - start, peak / 2**20


def most_memory(process: subprocess.Popen[bytes]) -> int:
    """Bytes that a process and its descendants held at most, each page counted once."""
    peak = 0
    while process.poll() is None:
        total = 0
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in family:
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(1)
    return peak


def write_sounds(folder: Path, rate: int, num_files: int, seconds: float) -> None:
    """speech/<speaker>/<n>.flac, ten clips a speaker, of three at least, and a tenth as many noises: filtered noise."""
    rng = np.random.default_rng(0)
    num_samples = round(seconds * rate)
    pool = np.cumsum(rng.standard_normal(60 * rate + num_samples)) / 50
    pool = np.clip(np.diff(pool, prepend=0.0) + 0.9 * np.sin(pool), -3, 3) / 10
    gate = np.clip(np.sin(2 * np.pi * 3 * np.arange(num_samples) / rate), 0, None)
    for role, count in (("speech", num_files), ("noise", max(num_files // 10, 3))):
        num_folders = max(count // 10, 3)
        for n in track(range(count), description=f"{role}, {rate} Hz", transient=True):
            target = folder / role / f"{n * num_folders // count:05d}" / f"{n}.flac"
            target.parent.mkdir(parents=True, exist_ok=True)
            start = int(rng.integers(60 * rate))
            samples = pool[start : start + num_samples] * (gate if role == "speech" else 1.0)
            soundfile.write(target, samples, rate, subtype="PCM_16")


if __name__ == "__main__":
    main()
