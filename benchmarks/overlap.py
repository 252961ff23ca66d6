"""How near a model that needs the whole clip comes to its whole-clip output when it is streamed by overlap.

    python benchmarks/overlap.py --noisy recording.wav [--bundle runs/original/bundle ...]

Clips of 10, 15 and 20 s are cut out of a recording of a minute or so, streamed, and compared with the model's output
over the whole clip: SI-SDR over all of the clip, and over what lies within 50 ms of the seams between windows. Without
--bundle the original, non-causal forms are measured with random weights.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ww_data.audio import read_mono
from ww_models import Denoiser, build_model, load_bundle, si_sdr_db
from ww_models.streaming.overlap import HOP_S, LEVEL_AHEAD_S, OverlapStreamer

ORIGINALS = {
    "waveunet": {"name": "waveunet", "causal": False, "normalize": "utterance", "gru_layers": 0},
    "demucs48": {"name": "demucs", "hidden": 48, "causal": False, "normalize": "utterance"},
    "gatewave": {"name": "gatewave", "causal": False, "normalize": "utterance"},
}
CLIP_S = (10, 15, 20)
NEAR_SEAM_S = 0.05
BAR_DB, SEAM_BAR_DB = 30.0, 29.0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noisy", required=True, metavar="FILE", help="a recording of at least 20 s")
    parser.add_argument("--bundle", nargs="+", default=[], metavar="DIR", help="models to measure")
    parser.add_argument(
        "--level-ahead-s",
        type=float,
        default=LEVEL_AHEAD_S,
        metavar="S",
        help="seconds that the level hears ahead (default: %(default)s)",
    )
    return parser


def models(bundles: list[str]) -> Iterator[tuple[str, Denoiser]]:
    for bundle in bundles:
        yield bundle, load_bundle(bundle)
    if not bundles:
        for name, settings in ORIGINALS.items():
            torch.manual_seed(0)
            yield f"{name} (random)", build_model(**settings).eval()


def agreement_db(model: Denoiser, noisy: np.ndarray, level_ahead_s: float) -> tuple[float, float]:
    """SI-SDR of the stream to the whole-clip output, dB: over all, and near the seams."""
    with torch.inference_mode():
        whole = model(torch.from_numpy(noisy)[None, None])[0, 0]
        streamer = OverlapStreamer(model, level_ahead_s=level_ahead_s)
        chunk = torch.from_numpy(noisy)[None]
        streamed = torch.cat([torch.as_tensor(streamer.feed(chunk)), torch.as_tensor(streamer.flush())], -1)[
            0
        ]
    hop, near = (round(seconds * model.sample_rate) for seconds in (HOP_S, NEAR_SEAM_S))
    hop = -(-hop // model.hop_samples) * model.hop_samples
    distance = torch.arange(len(whole)) % hop
    at_seam = (distance < near) | (distance >= hop - near)
    at_seam[:near] = False  # the beginning is no seam
    return float(si_sdr_db(whole, streamed)), float(si_sdr_db(whole[at_seam], streamed[at_seam]))


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(1)
    table = Table(
        "model", "clip (s)", "all (dB)", "at seams (dB)", f"{BAR_DB:g} dB, {SEAM_BAR_DB:g} at seams"
    )
    for name, model in models(arguments.bundle):
        sound = read_mono(arguments.noisy, model.sample_rate)
        for clip_s in track(CLIP_S, f"measuring {name}"):
            length = clip_s * model.sample_rate
            for begin in range(0, len(sound) - length + 1, length):
                noisy = np.ascontiguousarray(sound[begin : begin + length], np.float32)
                everywhere, at_seams = agreement_db(model, noisy, arguments.level_ahead_s)
                is_met = everywhere >= BAR_DB and at_seams >= SEAM_BAR_DB
                table.add_row(
                    name, str(clip_s), f"{everywhere:.1f}", f"{at_seams:.1f}", "met" if is_met else "missed"
                )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
