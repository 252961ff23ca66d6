"""Writes denoiser.npz: what the Demucs of `denoiser` 0.1.5 makes of known weights and signals.

Run by hand, in an environment of its own that has `denoiser`, from the root of the repository:

    python -m tests.ww_models.goldens.make_denoiser_goldens

Computed in double precision, stored in single: what is left of rounding is that of the model under test.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.ww_models.goldens.formula import denoiser_state, signal

GOLDENS = Path(__file__).with_name("denoiser.npz")
# A few samples, around a frame (597 at 16 kHz) and a stride (256), none a multiple of anything.
LENGTHS = (2, 3, 15, 255, 256, 257, 597, 598, 1000, 4001)
FEW_LENGTHS = (2, 15, 597, 1000)
# Names of forms in the file -> settings of denoiser's Demucs, lengths. The last is the form of valentini_nc.
FORMS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "48": ({"hidden": 48}, LENGTHS),
    "48-both-ways": ({"hidden": 48, "causal": False}, FEW_LENGTHS),
    "64": ({"hidden": 64}, (*FEW_LENGTHS, 4001)),
    "64-both-ways": ({"hidden": 64, "causal": False}, FEW_LENGTHS),
    "64-valentini": ({"hidden": 64, "causal": False, "stride": 2, "resample": 2}, FEW_LENGTHS),
    "small-as-it-is": (
        {"hidden": 6, "depth": 3, "resample": 1, "causal": False, "normalize": False},
        LENGTHS,
    ),
    "small-ragged": ({"hidden": 6, "depth": 3, "stride": 2, "resample": 4, "growth": 1.5}, LENGTHS),
}


def main() -> None:
    from denoiser.demucs import Demucs

    outputs = {}
    for name, (settings, lengths) in FORMS.items():
        model = Demucs(**settings)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        model.load_state_dict(denoiser_state(shapes))
        model.double().eval()
        for num_samples in lengths:
            with torch.no_grad():
                output = model(signal(name, num_samples).double())
            outputs[f"{name}/{num_samples}"] = output[0, 0].numpy().astype(np.float32)
            print(name, num_samples, f"rms {float(output.std()):.3g}, mean {float(output.mean()):.3g}")
    np.savez_compressed(GOLDENS, **outputs)
    print(f"{GOLDENS}: {GOLDENS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
