"""Training on a GPU in bf16: how busy it is, and a step's time over the least that its work could take there."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from training_measure import Work, through_plain_loops, through_trainer

from ww_models import DenoisingLoss, build_model

WARM_UP, STEPS, STRIDE = 50, 200, 20


def report_gpu(works: Sequence[Work], console: Console) -> None:
    """Prints a table, or that there is no GPU."""
    if not torch.cuda.is_available():
        console.print("no GPU: nothing was measured on one")
        return
    columns = ("steps/s", "audio s per s", "plain loop, steps/s", "step / least", "bound by", "GPU busy")
    table = Table(title=f"one worker on {torch.cuda.get_device_name()}, bf16")
    table.add_column("preset")
    for column in columns:
        table.add_column(column, justify="right")
    for work in works:
        on_gpu = dataclasses.replace(work, on_gpu=True, warm_up=WARM_UP, steps=STEPS, stride=STRIDE)
        least_s = least_times(on_gpu, torch.device("cuda"), torch.bfloat16)
        (plain,) = through_plain_loops(on_gpu)
        with watched_gpu() as looks:
            (ours,) = through_trainer(on_gpu)
        busy = [percent for at_s, percent in looks if ours.from_s <= at_s <= ours.to_s]
        table.add_row(
            work.preset,
            f"{1 / ours.step_s:.1f}",
            f"{work.audio_s_per_step / ours.step_s:.0f}",
            f"{1 / plain.step_s:.1f}",
            f"{ours.step_s / max(least_s.values()):.2f}",
            max(least_s, key=lambda name: least_s[name]),
            f"{statistics.mean(busy):.0f} %" if busy else "not told",
        )
    console.print(table)
    console.print(
        "least: the larger of what its arithmetic takes at the rate of a large matrix product, and what its tensors "
        "take at the rate of a large copy, both measured here."
    )


@contextlib.contextmanager
def watched_gpu() -> Iterator[list[tuple[float, float]]]:
    """Asks nvidia-smi how busy the first GPU is; (clock s, percent) of each answer."""
    looks: list[tuple[float, float]] = []
    query = [
        "nvidia-smi",
        "--id=0",
        "--query-gpu=utilization.gpu",
        "--format=csv,noheader,nounits",
        "-lms",
        "200",
    ]
    try:
        process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    except OSError:
        yield looks
        return

    def read() -> None:
        for line in process.stdout or ():
            with contextlib.suppress(ValueError):  # "[N/A]"
                looks.append((time.perf_counter(), float(line)))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield looks
    finally:
        process.terminate()
        process.wait()
        reader.join()


def least_times(work: Work, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """{"arithmetic", "memory"}: seconds of a step if nothing else took time, at rates measured on the device.

    Arithmetic is the model's own count of its products, forwards once and backwards twice. Memory is each layer's
    inputs and outputs, read or written once forwards and twice backwards, and what Adam reads and writes.
    """
    config = work.config
    num_samples = round(work.audio_s_per_step / config.training.batch_size * config.model.sample_rate)
    clean = 0.1 * torch.randn(config.training.batch_size, 1, num_samples, device=device)
    noisy = clean + 0.1 * torch.randn_like(clean)
    model = build_model(config.model_name, **dataclasses.asdict(config.model)).to(device).train()
    loss = DenoisingLoss(config.loss, config.model.sample_rate).to(device)
    moved = [0]

    def count(module: nn.Module, inputs: object, outputs: object) -> None:
        moved[0] += 3 * sum(tensor.nbytes for tensor in _tensors((inputs, outputs)))

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.no_grad(), torch.autocast(device.type, dtype):
        loss(model(noisy), clean, noisy)
    # Adam reads weights, gradients and two averages, and writes all but the gradients.
    moved[0] += 7 * sum(parameter.nbytes for parameter in model.parameters())
    flop = 3 * 2 * model.macs_per_second * work.audio_s_per_step
    flop_per_s, bytes_per_s = measured_rates(device, dtype)
    return {"arithmetic": flop / flop_per_s, "memory": moved[0] / bytes_per_s}


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def measured_rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """(floating point operations, bytes) per second: of a large matrix product, and of a large copy."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(32 * side * side, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    product_s = _fastest_s(lambda: torch.mm(left, right), device)
    copy_s = _fastest_s(lambda: target.copy_(source), device)
    return 2 * side**3 / product_s, 2 * source.nbytes / copy_s


def _fastest_s(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
