"""How much a trained model loses while its running level catches up: a turned knob, a long pause.

    python benchmarks/level.py --data data/mine --bundle runs/first/bundle

Each mixture of the test split is played twice, so that the level has settled, and then a third time: 20 dB louder,
20 dB quieter, or after 3 s of nothing but its noise. Printed is the SI-SDR of the model's output over the seconds that
follow, less that of the same model where nothing was turned and nothing paused, which is what it gives when it knows
the true level.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ww_data import open_corpus
from ww_models import Denoiser, load_bundle, si_sdr_db

PAUSE_S = 3.0
GAIN_DB = 20.0
BAR_DB = 0.5


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="corpus that jobs.prepare wrote")
    parser.add_argument("--bundle", required=True, nargs="+", metavar="DIR", help="causal models to measure")
    parser.add_argument(
        "--mixtures", type=int, default=60, metavar="N", help="test mixtures (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=4.0,
        metavar="S",
        help="what is scored after the change (default: %(default)s)",
    )
    return parser


def losses_db(model: Denoiser, noisy_T: np.ndarray, clean_T: np.ndarray, scored_s: float) -> dict[str, float]:
    """SI-SDR lost after each kind of change, dB; positive is worse than with the true level."""
    twice, start = np.tile(noisy_T, 2), 2 * len(noisy_T)
    scored = slice(0, int(scored_s * model.sample_rate))
    pause = (noisy_T - clean_T)[: int(PAUSE_S * model.sample_rate)]
    gain = 10 ** (GAIN_DB / 20)

    def si_sdr_after(between: np.ndarray, gain: float) -> float:
        played = np.concatenate([twice, between, gain * noisy_T]).astype(np.float32)
        with torch.inference_mode():
            output = model(torch.from_numpy(played)[None, None])[0, 0].numpy()
        return float(si_sdr_db(clean_T[scored].copy(), output[start + len(between) :][scored].copy()))

    nothing = noisy_T[:0]
    settled = si_sdr_after(nothing, 1.0)
    return {
        f"+{GAIN_DB:g} dB": settled - si_sdr_after(nothing, gain),
        f"-{GAIN_DB:g} dB": settled - si_sdr_after(nothing, 1 / gain),
        f"{PAUSE_S:g} s pause": settled - si_sdr_after(pause, 1.0),
    }


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(1)
    corpus = open_corpus(arguments.data)
    mixtures = corpus.mixtures("test")
    table = Table("model", "after", "SI-SDR lost, mean (dB)", "worst of 20 (dB)", f"mean at most {BAR_DB} dB")
    for bundle in arguments.bundle:
        model = load_bundle(bundle)
        if model.sample_rate != corpus.sample_rate:
            raise SystemExit(f"{bundle} has {model.sample_rate} Hz, {arguments.data} {corpus.sample_rate} Hz")
        losses: dict[str, list[float]] = {}
        for index in track(range(min(arguments.mixtures, len(mixtures))), f"measuring {bundle}"):
            for change, lost in losses_db(model, *mixtures[index], arguments.seconds).items():
                losses.setdefault(change, []).append(lost)
        for change, values in losses.items():
            mean, worst = float(np.nanmean(values)), float(np.nanquantile(values, 0.95))
            table.add_row(
                str(bundle), change, f"{mean:.2f}", f"{worst:.2f}", "met" if mean <= BAR_DB else "missed"
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
