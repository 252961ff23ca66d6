"""What a corpus of many hours takes of memory and time where no sound is touched.

    python benchmarks/scaling.py                       # up to 100,000 hours: a minute of CPU time
    python benchmarks/scaling.py --hours 1000 10000

Made-up corpora without samples: the plan (`ww_data.mixing.plan`: which segment comes when), what `corpus.json` lists,
the manifest and the noise bank. Each is measured in a process of its own: the most memory beyond its imports, and
CPU time. What takes too long to make in full is made in part, and its figures are carried on in proportion.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ww_data.corpus.banks import BankRow, NoiseBank
from ww_data.corpus.corpus import Corpus, SplitSummary
from ww_data.manifest import Clip, Manifest
from ww_data.mixing.plan import Plan
from ww_data.storage import Storage
from ww_data.write.parts import SHARD_SEGMENTS

SEGMENT_S, RATE = 4.0, 16_000
CLIP_S, NOISE_CLIP_S = 12.0, 60.0  # of a recording: read books; noise
NOISE_SHARE = 0.1  # hours of noise to an hour of speech
MAX_CLIPS, MAX_ROWS, MAX_FILES = 200_000, 20_000, 50_000  # made in full; beyond that in proportion
DRIVER_GB = 2.0  # what a plan may take at most
PLAN = "plan: segments in order"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one thing: how many there are, the peak of memory in MB beyond the imports, and CPU seconds."""

    what: str
    count: int
    megabytes: float
    seconds: float


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    hours = (100.0, 1_000.0, 10_000.0, 100_000.0)
    add(
        "--hours",
        type=float,
        nargs="+",
        default=hours,
        metavar="H",
        help="hours of speech (default: %(default)s)",
    )
    add("--check", action="store_true", help=f"exit code 1 if a plan takes more than {DRIVER_GB:g} GB")
    return parser


def measured(what: str, count: int, made: int, work: Callable[[int], None]) -> Cost:
    """The cost of `made` of them in a fresh process, in proportion for `count`."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        work(100)  # what is imported, or set up, once
        before, began = _peak_mb(), time.process_time()
        work(made)
        sender.send((_peak_mb() - before, time.process_time() - began))

    process = context.Process(target=child)
    process.start()
    sender.close()  # or nobody would hear that it has died
    megabytes, seconds = receiver.recv()
    process.join()
    share = count / made
    return Cost(what=what, count=count, megabytes=megabytes * share, seconds=seconds * share)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def plan_work(num_segments: int) -> None:
    """What a driver and a task do: the plan, and its items at some places of two epochs."""
    shards, rest = divmod(num_segments, SHARD_SEGMENTS)
    plan = Plan(seed=0, shard_sizes=[SHARD_SEGMENTS] * shards + [rest] * bool(rest))
    for position in np.linspace(0, 2 * num_segments - 65, 50, dtype=np.int64).tolist():
        plan.at(position, position + 64)


def corpus_file_work(num_files: int) -> None:
    """corpus.json with so many shards is read, and its shards are listed."""
    names = [f"speech/train/{number:032x}.parquet" for number in range(num_files)]
    about = {"bytes": 0, "sha256": "0" * 64, "num_segments": SHARD_SEGMENTS}
    text = json.dumps(dict.fromkeys(names, about))
    summary = SplitSummary(
        num_segments=1, speech_hours=1, num_speakers=1, noise_hours=1, num_recordings=1, num_mixtures=1
    )
    corpus = Corpus(
        storage=Storage("."),
        sample_rate=RATE,
        segment_samples=int(SEGMENT_S * RATE),
        manifest_hash="0",
        seed=0,
        splits={"train": summary},
        settings={},
        files=json.loads(text),
    )
    assert len(corpus.shards("train")) == num_files


def manifest_work(num_clips: int) -> None:
    """A manifest as a scan leaves it: checked, hashed, written and read."""
    clips = (
        Clip(
            id=f"speech/reader {n // 400:06}/chapter {n // 40:07}/{n:09}.flac",
            path=f"/corpora/books/speech/reader {n // 400:06}/chapter {n // 40:07}/{n:09}.flac",
            role="speech",
            speaker=f"reader {n // 400:06}",
            sample_rate=RATE,
            num_frames=int(CLIP_S * RATE),
            num_channels=1,
            seconds=CLIP_S,
            split="train",
            content_hash=f"{n:032x}",
            sample_hash=f"{n:032x}",
            layout="folder",
            shard=f"speech/train/{n // 85:032x}.parquet",
        )
        for n in range(num_clips)
    )
    manifest = Manifest(clips=tuple(clips))
    manifest.check()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "manifest.parquet").write_bytes(manifest.to_parquet())
        assert Manifest.read(Path(folder, "manifest.parquet")).hash == manifest.hash


def bank_work(num_rows: int) -> None:
    """A noise bank is written and opened; its rows hold one sample each, for the samples are mapped, not read."""
    rows = (BankRow(f"noise/{n:09}.flac", f"{n:09}", 0, np.ones(1, np.int16)) for n in range(num_rows))
    with tempfile.TemporaryDirectory() as folder:
        NoiseBank.write(Path(folder, "bank.arrow"), rows, RATE)
        assert len(NoiseBank(Path(folder, "bank.arrow"))) == num_rows


def corpus_costs(hours: float) -> list[Cost]:
    """Of the plan, which is made in full, and of what lists files and recordings."""
    segments = round(hours * 3600 / SEGMENT_S)
    files, clips = -(-segments // SHARD_SEGMENTS), round(hours * 3600 / CLIP_S)
    rows = max(1, round(hours * 3600 * NOISE_SHARE / NOISE_CLIP_S))
    return [
        measured(PLAN, segments, segments, plan_work),
        measured("corpus.json: shards", files, min(files, MAX_FILES), corpus_file_work),
        measured("manifest: recordings", clips, min(clips, MAX_CLIPS), manifest_work),
        measured("noise bank: pieces", rows, min(rows, MAX_ROWS), bank_work),
    ]


def table(rows: dict[float, list[Cost]]) -> str:
    lines = ["| hours of speech | what | how many | memory, MB | CPU s |", "|---|---|---|---|---|"]
    for hours, costs in rows.items():
        for cost in costs:
            figures = f"{cost.count:,} | {cost.megabytes:,.0f} | {cost.seconds:,.1f}"
            lines.append(f"| {hours:,.0f} | {cost.what} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    arguments = parser().parse_args()
    if min(arguments.hours) <= 0:
        raise SystemExit("--hours must be above 0")
    rows = {}
    for hours in arguments.hours:
        rows[hours] = corpus_costs(hours)
        print(f"{hours:,.0f} hours are measured", file=sys.stderr, flush=True)
    print(table(rows))
    most = max(cost.megabytes for costs in rows.values() for cost in costs if cost.what == PLAN)
    print(f"\nA plan takes at most {most:,.0f} MB; the bar is {DRIVER_GB * 1000:,.0f} MB.")
    if arguments.check and most > DRIVER_GB * 1000:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
