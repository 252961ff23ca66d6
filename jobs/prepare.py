"""Turns folders of speech and noise into a corpus that training reads: manifest, shards, noise bank, test mixtures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.progress import progress
from jobs.cli import main, make_parser
from ww_data import Manifest, scan_corpus, write_shards


def parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "prepare",
        __doc__
        + """
Audio: WAV, FLAC, OGG or MP3 of any rate, channels and bit depth, in any depth of sub-folders. Speakers, and noise
recordings, are kept apart between the train, val and test splits. Files that cannot be used are left out and listed
in manifest.parquet with the reason.

example: python -m jobs.prepare --speech my/speech --noise my/noise --out data/mine""",
    )
    parser.add_argument("--speech", nargs="+", required=True, metavar="DIR", help="folders of clean speech")
    parser.add_argument("--noise", nargs="+", required=True, metavar="DIR", help="folders of noise")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write the corpus to")
    add_corpus_options(parser)
    return parser


def add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """Options that every command that prepares a corpus understands."""
    parser.add_argument(
        "--speaker-from",
        choices=("auto", "folder", "prefix", "file"),
        default="auto",
        help="what names a speaker: the sub-folder, the file name up to its first '__', '_' or '-', or the file",
    )
    parser.add_argument(
        "--recording-from",
        choices=("folder", "prefix", "file"),
        default="file",
        help="what names a noise recording, of which all parts go into one split",
    )
    parser.add_argument(
        "--sample-rate", type=int, default=16_000, metavar="HZ", help="rate to work at, in Hz"
    )
    parser.add_argument(
        "--segment-s", type=float, default=4.0, metavar="S", help="length of a segment in seconds"
    )
    parser.add_argument("--val-fraction", type=float, default=0.1, help="share of speakers and noises in val")
    parser.add_argument(
        "--test-fraction", type=float, default=0.1, help="share of speakers and noises in test"
    )
    parser.add_argument(
        "--test-mixtures", type=int, default=120, metavar="N", help="fixed test mixtures to store"
    )
    parser.add_argument("--val-mixtures", type=int, default=60, metavar="N", help="fixed validation mixtures")
    parser.add_argument("--seed", type=int, default=0, help="decides splits and stored mixtures")


def scan(
    speech: Sequence[str | Path], noise: Sequence[str | Path], arguments: argparse.Namespace
) -> Manifest:
    """Reads all files and deals them to the splits."""
    with progress("reading files") as report:
        return scan_corpus(
            speech,
            noise,
            speaker_from=arguments.speaker_from,
            recording_from=arguments.recording_from,
            val_fraction=arguments.val_fraction,
            test_fraction=arguments.test_fraction,
            seed=arguments.seed,
            progress=report,
        )


def corpus_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides how a manifest becomes a corpus, as `write_shards` takes it."""
    return {
        "sample_rate": arguments.sample_rate,
        "segment_s": arguments.segment_s,
        "num_val_mixtures": arguments.val_mixtures,
        "num_test_mixtures": arguments.test_mixtures,
    }


def write(manifest: Manifest, out: str | Path, arguments: argparse.Namespace) -> None:
    """Writes the corpus, unless it is there already."""
    with progress("writing corpus") as report:
        write_shards(manifest, out, **corpus_settings(arguments), progress=report)
    print(manifest.summary())


def run(arguments: argparse.Namespace) -> None:
    write(scan(arguments.speech, arguments.noise, arguments), arguments.out, arguments)
    print(
        f"corpus: {Path(arguments.out).resolve()}\nnext: python -m jobs.train --data {arguments.out} --preset demo"
    )


if __name__ == "__main__":
    main(parser(), run)
