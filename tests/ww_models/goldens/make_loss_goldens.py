"""Writes losses.json: L1 and multi-resolution STFT losses of known signals by `denoiser` 0.1.5 and `auraloss` 0.4.0.

Run by hand, in an environment of its own that has both, from the root of the repository:

    python -m tests.ww_models.goldens.make_loss_goldens

In double precision. Of each loss: its value, and the product of its gradient with a known signal.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.ww_models.goldens.formula import signal

GOLDENS = Path(__file__).with_name("losses.json")
NUM_SAMPLES = 4001
# Names of pairs -> levels of the clean signal, and of what is added to it to give the estimate.
PAIRS = {
    "noisy": (1.0, 0.5),
    "close": (1.0, 0.01),
    "loud": (8.0, 8.0),
    "quiet": (0.02, 0.005),
    # Almost all of its bins lie below the power of 1e-7 that all three raise magnitudes to.
    "nearly-silent-estimate": (0.1, -0.0999),
}


def pair(name: str, batch: int = 1) -> tuple[Tensor, Tensor]:
    """estimate, clean (B, 1, T)"""
    clean_level, error_level = PAIRS[name]
    clean = clean_level * signal("clean", NUM_SAMPLES, batch)
    if name == "nearly-silent-estimate":
        return clean + error_level / clean_level * clean, clean
    return clean + error_level * signal(f"error of {name}", NUM_SAMPLES, batch), clean


def probe() -> Tensor:
    """What gradients are multiplied with."""
    return signal("probe", NUM_SAMPLES)


def denoiser_losses() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    from denoiser.stft_loss import MultiResolutionSTFTLoss

    stft = torch.stft
    # Its call is of the time before torch asked whether the result should be complex.
    torch.stft = lambda *args, **kwargs: (  # type: ignore[assignment]
        stft(*args, **kwargs) if kwargs else torch.view_as_real(stft(*args, return_complex=True))
    )
    loss = MultiResolutionSTFTLoss(factor_sc=1.0, factor_mag=1.0).double()
    return {
        "l1": F.l1_loss,
        "spectral_convergence": lambda estimate, clean: loss(estimate[:, 0], clean[:, 0])[0],
        "log_magnitude": lambda estimate, clean: loss(estimate[:, 0], clean[:, 0])[1],
    }


def auraloss_losses() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    from auraloss.freq import MultiResolutionSTFTLoss

    def loss(**weights: float) -> Callable[[Tensor, Tensor], Tensor]:
        whole = MultiResolutionSTFTLoss(**{"w_sc": 0.0, "w_log_mag": 0.0, **weights})
        for resolution in whole.stft_losses:
            # Its floor is 1e-8 unless told: that of the other two is asked for.
            resolution.eps = 1e-7
            resolution.window = resolution.window.double()
        return whole

    return {"spectral_convergence": loss(w_sc=1.0), "log_magnitude": loss(w_log_mag=1.0)}


def main() -> None:
    goldens: dict[str, Any] = {}
    for library, losses in (("denoiser", denoiser_losses()), ("auraloss", auraloss_losses())):
        for term, loss in losses.items():
            for name in PAIRS:
                estimate, clean = (x.double() for x in pair(name))
                value = loss(estimate.requires_grad_(), clean)
                (gradient,) = torch.autograd.grad(value, estimate)
                slope = float((gradient * probe().double()).sum())
                goldens.setdefault(library, {}).setdefault(term, {})[name] = [value.item(), slope]
    GOLDENS.write_text(json.dumps(goldens, indent=1) + "\n")
    print(GOLDENS.read_text())


if __name__ == "__main__":
    main()
