"""Time of one training step of Demucs-48, ours beside that of `denoiser`: 8 clips of 1 s, L1 + multi-resolution STFT,
Adam, one thread.

    python benchmarks/training_step.py [--repeats N] [--oracles DIR]

Both start from the same weights and take turns in one process. What is compared is the median of the processor time:
on one thread that is the time on an idle machine, and other processes disturb it little.
The original is not among our dependencies. To compare with it, install it apart:

    pip install --no-deps --target DIR denoiser==0.1.5
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ww_models import DenoisingLoss, LossConfig, build_model

BATCH, NUM_SAMPLES = 8, 16_000
LEARNING_RATE = 3e-4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10, help="measured steps of each; 10 unless given")
    parser.add_argument("--oracles", metavar="DIR", help="where denoiser was installed, if not beside torch")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats is {arguments.repeats}: give at least 1")
    if arguments.oracles:
        sys.path.append(arguments.oracles)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model("demucs", hidden=48, normalize="utterance").train()
    loss = DenoisingLoss(LossConfig())
    steps = {"ours": training_step(model, lambda estimate, clean: loss(estimate, clean).total)}
    try:
        steps["denoiser"] = training_step(*denoiser_model_and_loss(model))
    except ImportError:
        print("denoiser is not installed, so ours is measured alone; --help says how to install it")
    clean = 0.1 * torch.randn(BATCH, 1, NUM_SAMPLES)
    noisy = clean + 0.1 * torch.randn(BATCH, 1, NUM_SAMPLES)
    first = {name: step(noisy, clean) for name, step in steps.items()}
    print("loss of the first step: " + ", ".join(f"{name} {value:.6f}" for name, value in first.items()))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.repeats):
        for name, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            step(noisy, clean)
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)
    for name, times in cpu_seconds.items():
        print(
            f"{name:10} {median(times):.3f} s of one core a step ({min(times):.3f} to {max(times):.3f}), "
            f"{median(seconds[name]):.3f} s on the clock"
        )
    if len(steps) == 2:
        print(f"ours is {median(cpu_seconds['denoiser']) / median(cpu_seconds['ours']):.2f} x as fast")


def training_step(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], float]:
    """step(noisy, clean), both (B, 1, T), -> the loss before the step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step(noisy: Tensor, clean: Tensor) -> float:
        optimizer.zero_grad()
        total = loss(model(noisy), clean)
        total.backward()
        optimizer.step()
        return float(total.detach())

    return step


def denoiser_model_and_loss(ours: nn.Module) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """With the weights of `ours`. ImportError if denoiser is not installed."""
    from denoiser.demucs import Demucs
    from denoiser.stft_loss import MultiResolutionSTFTLoss

    model = Demucs(hidden=48).train()
    model.load_state_dict(ours.state_dict())
    stft_loss = MultiResolutionSTFTLoss(factor_sc=0.5, factor_mag=0.5)
    stft = torch.stft

    def old_stft(x: Tensor, *settings: object, **keywords: object) -> Tensor:
        """The call of denoiser is of the time before torch asked whether the result should be complex."""
        if keywords:
            return stft(x, *settings, **keywords)  # type: ignore[arg-type]
        return torch.view_as_real(stft(x, *settings, return_complex=True))  # type: ignore[arg-type]

    torch.stft = old_stft

    def loss(estimate: Tensor, clean: Tensor) -> Tensor:
        convergence, log_magnitude = stft_loss(estimate.squeeze(1), clean.squeeze(1))
        return F.l1_loss(clean, estimate) + convergence + log_magnitude

    return model, loss


if __name__ == "__main__":
    main()
