"""How good our bundles are beside the noisy sound and what others have as packages, and what each costs.

    python benchmarks/quality.py --data data/mine --bundle runs/first/bundle --oracles DIR
    python benchmarks/quality.py --pairs testset/noisy:testset/clean --bundle runs/first/bundle

All systems get the same mixtures in one run. PESQ (wide band), STOI, ESTOI, SI-SDR, and with --dnsmos DNSMOS P.835 of
`speechmos`, which takes a CPU second a clip and more: means of gains over the noisy sound, with paired bootstrap
intervals over the clips; then what the first bundle is above each other system, likewise. *Clean in* is what a system
makes of clean speech, *silence in* the level it gives for digital silence. *Cost*: CPU seconds per second of audio on
one thread, the conversion to a peer's rate included; systems take turns, clip by clip. With --drift-minutes a minute of
the mixtures is played so many times to each of our streams: SI-SDR of the first time and of the last, and the level of
what changed from the second to the last, relative to the sound itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):  # before numpy comes
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from quality_systems import SAMPLE_RATE, System, bundles, peers  # noqa: E402
from quality_tables import NOISY, as_markdown, by_snr, draw, first_above_others, over_time, overall, show  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

from ww_data import open_corpus, read_mono  # noqa: E402
from ww_models import score_clip  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Clip:
    name: str
    noisy_T: np.ndarray
    clean_T: np.ndarray

    @property
    def snr_db(self) -> float:
        return score_clip(self.clean_T, self.noisy_T, SAMPLE_RATE, perceptual=False).snr_db


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help="corpus that jobs.prepare wrote")
    add("--split", choices=("test", "val"), default="test", help="its mixtures (default: %(default)s)")
    add("--pairs", metavar="NOISY:CLEAN", help="two folders with files of the same names, instead of --data")
    add("--bundle", nargs="+", default=[], metavar="DIR", help="our models")
    add("--oracles", metavar="DIR", help="where pip has put the peers (--target DIR)")
    add("--clips", type=int, metavar="N", help="of all, evenly taken (default: all)")
    add("--dnsmos", action="store_true", help="measure DNSMOS, too")
    add("--drift-minutes", type=int, default=0, metavar="N", help="measure drift over so long (default: not)")
    add("--out", type=Path, metavar="DIR", help="folder for quality.json, quality.md and quality.png")
    return parser


def clips(args: argparse.Namespace) -> list[Clip]:
    if bool(args.data) == bool(args.pairs):
        raise SystemExit("error: give either --data or --pairs")
    found = list(_of_corpus(args.data, args.split) if args.data else _of_folders(*args.pairs.split(":", 1)))
    if not found:
        raise SystemExit(f"error: {args.data or args.pairs}: no clips")
    if args.clips:
        found = [found[i] for i in np.linspace(0, len(found) - 1, min(args.clips, len(found))).astype(int)]
    return found


def _of_corpus(data: str, split: str) -> Iterator[Clip]:
    mixtures = open_corpus(data).mixtures(split)
    for i, name in enumerate(mixtures.ids):
        noisy_T, clean_T = mixtures[i]
        yield Clip(name=name, noisy_T=noisy_T, clean_T=clean_T)


def _of_folders(noisy: str, clean: str) -> Iterator[Clip]:
    by_name = {path.stem: path for path in Path(noisy).iterdir()}
    for file in sorted(Path(clean).iterdir()):
        if file.stem in by_name:
            both = [read_mono(path, SAMPLE_RATE) for path in (by_name[file.stem], file)]
            length = min(map(len, both))
            yield Clip(name=file.stem, noisy_T=both[0][:length], clean_T=both[1][:length])


def scores(pair: tuple[np.ndarray, np.ndarray], with_dnsmos: bool = False) -> dict[str, float]:
    """(clean, estimate) -> every measure; NaN where one is not defined."""
    clean_T, estimate_T = pair
    quality = score_clip(clean_T, estimate_T, SAMPLE_RATE)
    row = {"pesq": quality.pesq, "stoi": quality.stoi, "estoi": _estoi(clean_T, estimate_T)}
    row["si_sdr_db"] = quality.si_sdr_db
    return row | _dnsmos(estimate_T) if with_dnsmos else row


def _estoi(clean_T: np.ndarray, estimate_T: np.ndarray) -> float:
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return float(stoi(clean_T, estimate_T, SAMPLE_RATE, extended=True))
        except (RuntimeWarning, UserWarning, ValueError):
            return float("nan")


def _dnsmos(estimate_T: np.ndarray) -> dict[str, float]:
    from speechmos import dnsmos

    found = dnsmos.run(np.clip(estimate_T, -1, 1), SAMPLE_RATE)
    return {f"dnsmos_{name}": float(found[f"{name}_mos"]) for name in ("sig", "bak", "ovrl")}


def enhance(systems: list[System], taken: list[Clip]) -> tuple[dict[str, list[np.ndarray]], dict[str, float]]:
    """What each system makes of each clip, and its CPU seconds per second of audio."""
    outputs: dict[str, list[np.ndarray]] = {system.name: [] for system in systems}
    spent = dict.fromkeys(outputs, 0.0)
    for system in systems:
        system.enhance(taken[0].clean_T)  # finds caches, and how late a peer is
    for clip in track(taken, "enhancing"):
        for system in systems:
            start = time.process_time()
            outputs[system.name].append(system.enhance(clip.noisy_T))
            spent[system.name] += time.process_time() - start
    audio_s = sum(len(clip.noisy_T) for clip in taken) / SAMPLE_RATE
    return outputs, {name: seconds / audio_s for name, seconds in spent.items()}


def harm(
    system: System, taken: list[Clip], score: Callable[..., Iterator[dict[str, float]]]
) -> dict[str, float]:
    """Clean speech in, and silence in."""
    pairs = [(clip.clean_T, system.enhance(clip.clean_T)) for clip in taken]
    rows = list(score(scores, pairs))
    silence_T = system.enhance(np.zeros(4 * SAMPLE_RATE, np.float32))
    level_dbfs = 10 * np.log10(np.mean(silence_T.astype(np.float64) ** 2) + 1e-12)
    means = {
        f"clean_{name}": float(np.nanmean([row[name] for row in rows])) for name in ("pesq", "si_sdr_db")
    }
    return means | {"silence_dbfs": float(level_dbfs)}


def drift(system: System, taken: list[Clip], minutes: int) -> dict[str, float]:
    """Of the same minute of mixtures, over and over in one stream: SI-SDR of the first time and of the last, and the
    level of what changed from the second time to the last, relative to that. The last second is left out: the stream
    ends there, and looks ahead to nothing.
    """
    some = taken[:: max(1, len(taken) // 15)]
    noisy_T, clean_T = (
        np.resize(np.concatenate([getattr(clip, side) for clip in some]), 60 * SAMPLE_RATE)
        for side in ("noisy_T", "clean_T")
    )
    played = system.enhance(np.tile(noisy_T, minutes)).reshape(minutes, -1)[:, :-SAMPLE_RATE]
    second, last = played[1].astype(np.float64), played[-1].astype(np.float64)
    changed = np.sum((last - second) ** 2) / np.sum(second**2)
    first_si_sdr_db, last_si_sdr_db = (
        score_clip(clean_T[:-SAMPLE_RATE], each, SAMPLE_RATE, perceptual=False).si_sdr_db
        for each in (played[0], played[-1])
    )
    return {
        "first_minute_si_sdr_db": first_si_sdr_db,
        "last_minute_si_sdr_db": last_si_sdr_db,
        "drift_db": float(10 * np.log10(changed + 1e-30)),
    }


def measure(args: argparse.Namespace) -> dict[str, object]:
    taken, score = clips(args), functools.partial(scores, with_dnsmos=args.dnsmos)
    systems = [*bundles(args.bundle), *peers(args.oracles)]
    outputs, cost = enhance(systems, taken)
    outputs = {NOISY: [clip.noisy_T for clip in taken], **outputs}
    snr_db = [clip.snr_db for clip in taken]
    found: dict[str, dict[str, object]] = {}
    with ProcessPoolExecutor() as pool:
        for name, estimates in track(outputs.items(), "scoring"):
            pairs = [(clip.clean_T, estimate) for clip, estimate in zip(taken, estimates, strict=True)]
            found[name] = {"rows": list(pool.map(score, pairs, chunksize=4)), "cost": cost.get(name)}
        for system in track(systems, "clean speech in"):
            few = taken[:: max(1, len(taken) // 40)]
            found[system.name] |= harm(system, few, pool.map)
            found[system.name] |= {"latency_ms": system.latency_ms, "parameters": system.parameters}
    if args.drift_minutes:
        for system in track([one for one in systems if one.parameters], "drift"):
            found[system.name] |= drift(system, taken, args.drift_minutes)
    return {"clips": [clip.name for clip in taken], "snr_db": snr_db, "systems": found}


def main() -> None:
    args = parser().parse_args()
    if args.drift_minutes and args.drift_minutes < 3:
        raise SystemExit(f"error: --drift-minutes is {args.drift_minutes}: give at least 3, or 0 for none")
    found = measure(args)
    console = Console(width=None if os.isatty(1) else 240)
    tables = [overall(found), first_above_others(found), by_snr(found)]
    if args.drift_minutes:
        tables.append(over_time(found))
    for rows in tables:
        show(console, rows)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "quality.json").write_text(json.dumps(found, indent=1))
        (args.out / "quality.md").write_text("\n".join(map(as_markdown, tables)))
        draw(found, args.out / "quality.png")
        console.print(f"written to {args.out}")


if __name__ == "__main__":
    main()
