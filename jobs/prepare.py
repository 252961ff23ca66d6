"""Turns folders of speech and noise into a corpus that training reads: manifest, shards, noise bank, test mixtures."""

from __future__ import annotations

import argparse
import contextlib
import functools
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from cluster.machine.progress import progress
from cluster.machine.session import connect
from cluster.preparation import on_ray
from jobs.cli import main, make_parser
from ww_data import LAYOUTS, CorpusError, Grouping, Prepared, prepare_corpus
from ww_data.parallel import Executor
from ww_data.write.corpus import checked_settings
from ww_models.denoiser import ModelConfig


def parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "prepare",
        __doc__
        + f"""
Audio: WAV, FLAC, OGG, MP3, M4A, WebM, AAC, AIFF, CAF, AU or W64 of any rate, channels and bit depth, in any depth of
sub-folders. Speakers, and noise recordings, are kept apart between the train, val and test splits. Files that cannot
be used are left out and listed in manifest.parquet with the reason.

A folder may be an address, such as s3://bucket/speech. The work is spread over the cores of this machine, or of the
cluster at RAY_ADDRESS, whose nodes must all reach the folders. A run that was interrupted goes on where it stopped
when it is started again; with more files, only what is new is read. Known data sets are recognised by their files:
{", ".join(LAYOUTS)}.

example: python -m jobs.prepare --speech my/speech --noise my/noise --out data/mine
         python -m jobs.prepare --corpus /data/MS-SNSD --rir /data/rooms --out s3://bucket/ms-snsd""",
    )
    parser.add_argument("--speech", nargs="+", default=[], metavar="DIR", help="folders of clean speech")
    parser.add_argument("--noise", nargs="+", default=[], metavar="DIR", help="folders of noise")
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        metavar="DIR",
        help="known data sets that hold several of these, or pairs of noisy and clean files",
    )
    parser.add_argument(
        "--rir", nargs="+", default=[], metavar="DIR", help="folders of room impulse responses"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder or address to write the corpus to"
    )
    parser.add_argument(
        "--drop-missing",
        action="store_true",
        help="drop files of the corpus in --out that are not found any more, instead of refusing",
    )
    add_corpus_options(parser)
    return parser


def add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """Options that every command that prepares a corpus understands."""
    parser.add_argument(
        "--layout",
        choices=("auto", *LAYOUTS),
        default="auto",
        help="how the files of all folders are laid out; auto recognises each folder by its files",
    )
    parser.add_argument(
        "--splits",
        choices=("given", "dealt"),
        default="given",
        help="keep the train, val and test folders that a data set comes with, or deal everything anew",
    )
    parser.add_argument(
        "--speaker-from",
        choices=get_args(Grouping),
        default="auto",
        help="in plain folders: what names a speaker: the sub-folder, the file name up to its first '__', '_' or '-', "
        "or the file",
    )
    parser.add_argument(
        "--recording-from",
        choices=[grouping for grouping in get_args(Grouping) if grouping != "auto"],
        default="file",
        help="in plain folders: what names a noise recording, of which all parts go into one split",
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
    parser.add_argument("--test-mixtures", type=int, default=120, metavar="N", help="test mixtures to store")
    parser.add_argument(
        "--val-mixtures", type=int, default=60, metavar="N", help="validation mixtures to store"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides splits and stored mixtures")


def corpus_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides how a manifest becomes a corpus, as `write_corpus` takes it."""
    return {
        "sample_rate": arguments.sample_rate,
        "segment_s": arguments.segment_s,
        "num_val_mixtures": arguments.val_mixtures,
        "num_test_mixtures": arguments.test_mixtures,
    }


def prepare(
    out: str | Path, arguments: argparse.Namespace, executor: Executor = on_ray, **options: Any
) -> Prepared:
    """Prepares a corpus with the options of `add_corpus_options` and of `prepare_corpus`; prints what is in it."""
    prepared = prepare_corpus(
        out,
        corpus_settings(arguments),
        layout=arguments.layout,
        splits=arguments.splits,
        speaker_from=arguments.speaker_from,
        recording_from=arguments.recording_from,
        val_fraction=arguments.val_fraction,
        test_fraction=arguments.test_fraction,
        seed=arguments.seed,
        executor=executor,
        progress=progress,
        **options,
    )
    print(prepared.manifest.summary())
    return prepared


def run(arguments: argparse.Namespace) -> None:
    if not arguments.corpus and not (arguments.speech and arguments.noise):
        raise CorpusError("give --speech and --noise, or --corpus with a data set that holds both")
    checked_settings(**corpus_settings(arguments), seed=arguments.seed)  # found out now, not after hours
    start = time.monotonic()
    with contextlib.ExitStack() as session:
        # Ray takes seconds to start: only when there is work, after all that can be refused without it.
        @functools.cache
        def start_ray() -> None:
            print(f"preparing {arguments.out} on {session.enter_context(connect())}")

        def execute(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
            if items:
                start_ray()
            return on_ray(function, items)

        prepared = prepare(
            arguments.out,
            arguments,
            execute,
            speech_dirs=arguments.speech,
            noise_dirs=arguments.noise,
            rir_dirs=arguments.rir,
            corpus_dirs=arguments.corpus,
            drop_missing=arguments.drop_missing,
        )
    num_new, num_files = prepared.num_new_files, len(prepared.corpus.files)
    print(
        f"{num_new} new files, {num_files - num_new} that were there; took {time.monotonic() - start:.0f} s"
    )
    if not prepared.corpus.high_pass_hz:
        print(
            "note: this corpus was begun by an earlier version and stays as it is: offsets and what lies below hearing "
            "count in its levels; prepare it in another folder to be rid of them"
        )
    print(f"corpus: {prepared.corpus.storage}")
    rate = prepared.corpus.sample_rate
    of_rate = "" if rate == ModelConfig().sample_rate else f" --set model.sample_rate={rate}"
    print(f"next: python -m jobs.train --data {shlex.quote(str(arguments.out))} --preset demo{of_rate}")


if __name__ == "__main__":
    main(parser(), run)
