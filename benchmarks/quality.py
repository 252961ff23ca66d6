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
import itertools
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

import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from quality_systems import SAMPLE_RATE, System, bundles, peers  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from cluster.evaluation.statistics import paired_interval  # noqa: E402
from ww_data import open_corpus, read_mono  # noqa: E402
from ww_models import score_clip  # noqa: E402

NOISY = "noisy"
DIGITS = {
    "pesq": 3,
    "stoi": 4,
    "estoi": 4,
    "si_sdr_db": 2,
    "dnsmos_sig": 2,
    "dnsmos_bak": 2,
    "dnsmos_ovrl": 2,
}
SNR_EDGES_DB = (-100.0, 0.0, 5.0, 10.0, 15.0, 100.0)


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


def column(found: dict, name: str, measure_name: str) -> np.ndarray:
    return np.array([row[measure_name] for row in found["systems"][name]["rows"]])


def above(before: np.ndarray, after: np.ndarray, digits: int) -> str:
    """The mean difference, and its interval."""
    gain = paired_interval(before, after, num_resamples=2000, confidence=0.95, seed=0)
    return f"{gain.mean:+.{digits}f} ({gain.low:+.{digits}f} to {gain.high:+.{digits}f})"


def overall(found: dict) -> list[list[str]]:
    """The table: a header, then a row for each system."""
    measures = [name for name in DIGITS if name in found["systems"][NOISY]["rows"][0]]
    header = ["system", *measures, "clean in: PESQ", "SI-SDR dB", "silence in: dBFS", "latency ms", "cost"]
    rows = [header]
    for name, about in found["systems"].items():
        cells = [name]
        for each in measures:
            before, after, digits = column(found, NOISY, each), column(found, name, each), DIGITS[each]
            if name == NOISY:
                cells.append(f"{np.nanmean(after):.{digits}f}")
                continue
            cells.append(above(before, after, digits))
        if name == NOISY:
            rows.append([*cells, "", "", "", "", ""])
            continue
        latency = "whole clip" if about["latency_ms"] is None else f"{about['latency_ms']:.0f}"
        harm_cells = [
            f"{about['clean_pesq']:.2f}",
            f"{about['clean_si_sdr_db']:.1f}",
            f"{about['silence_dbfs']:.0f}",
        ]
        rows.append([*cells, *harm_cells, latency, f"{about['cost']:.4f}"])
    return rows


def over_time(found: dict) -> list[list[str]]:
    """What a long stream does to the sound."""
    rows = [["system", "SI-SDR dB, first minute", "last minute", "changed, dB"]]
    keys = ("first_minute_si_sdr_db", "last_minute_si_sdr_db", "drift_db")
    for name, about in found["systems"].items():
        if keys[0] in about:
            rows.append([name, *(f"{about[key]:.{0 if key == 'drift_db' else 2}f}" for key in keys)])
    return rows


def first_above_others(found: dict) -> list[list[str]]:
    """By how much the first system (a bundle, where one is given) is above each other one, clip by clip."""
    first, *others = (name for name in found["systems"] if name != NOISY)
    measures = [name for name in DIGITS if name in found["systems"][NOISY]["rows"][0]]
    rows = [[f"{first} above", *measures]]
    for name in others:
        cells = []
        for each in measures:
            theirs, ours, digits = column(found, name, each), column(found, first, each), DIGITS[each]
            cells.append(above(theirs, ours, digits))
        rows.append([name, *cells])
    return rows


def by_snr(found: dict) -> list[list[str]]:
    """Gains in PESQ, STOI and SI-SDR for each range of SNR."""
    snr_db = np.array(found["snr_db"])
    rows = [["system", "SNR dB", "clips", "pesq", "stoi", "si_sdr_db"]]
    for name in found["systems"]:
        for low, high in itertools.pairwise(SNR_EDGES_DB):
            inside = (snr_db >= low) & (snr_db < high)
            if name == NOISY or not inside.any():
                continue
            gains = [
                f"{np.nanmean((column(found, name, each) - column(found, NOISY, each))[inside]):+.{DIGITS[each]}f}"
                for each in ("pesq", "stoi", "si_sdr_db")
            ]
            ends = (
                f"under {high:g}"
                if low == -100
                else f"{low:g} and more"
                if high == 100
                else f"{low:g} to {high:g}"
            )
            rows.append([name, ends, str(int(inside.sum())), *gains])
    return rows


def as_markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def show(console: Console, rows: list[list[str]]) -> None:
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def draw(found: dict, file: Path) -> None:
    """Quality against cost."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, about in found["systems"].items():
        if name != NOISY:
            gain = float(np.nanmean(column(found, name, "pesq") - column(found, NOISY, "pesq")))
            axes.scatter(about["cost"], gain)
            axes.annotate(name, (about["cost"], gain), xytext=(6, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="CPU seconds per second of audio, one thread", ylabel="gain in PESQ")
    axes.margins(x=0.3, y=0.15)
    axes.axhline(0, color="0.7", linewidth=1)
    figure.savefig(file, dpi=150)


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
