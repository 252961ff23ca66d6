"""How much sound a core trains on in a second, preset by preset, and what the time goes to.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --presets bandmask-compact --set loss.stoi_weight=1

A step (model, loss, backward, gradient clipping, optimizer, average of weights) on one thread, of noise in the preset's
batches; mixing is left out (`mixing.py`). Times are CPU time, so neighbours disturb them little; medians. Shares are
those of torch's profiler over one step: what its operators take themselves, in kinds.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import torch
from recipes import Trainer
from torch.profiler import ProfilerActivity, profile

from cluster.settings.experiment import ExperimentConfig, load_config

COMPACT = ("bandmask-compact", "gatewave-compact", "demucs-compact", "waveunet-compact")
KINDS = {
    "matrix products": ("mm", "bmm", "linear", "matmul"),
    "convolutions": ("convolution", "conv1d"),
    "recurrent layers": ("lstm", "gru", "mkldnn_rnn"),
    "Fourier transforms": ("fft", "stft"),
    "copies": (
        "copy_",
        "cat",
        "contiguous",
        "clone",
        "fill_",
        "zero_",
        "slice",
        "pad",
        "index",
        "unfold",
        "fold",
    ),
}
OTHER = "element by element"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    preset: str
    audio_s_per_cpu_s: float
    loss_share: float
    kinds: dict[str, float]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--presets", nargs="+", default=COMPACT, metavar="NAME", help="(default: the compact ones)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="as of jobs.train")
    add("--steps", type=int, default=5, metavar="N", help="measured steps of each (default: %(default)s)")
    add("--segment-s", type=float, default=2.0, metavar="S", help="of a clip, where the preset cuts no crops")
    return parser


def kind_of(operator: str) -> str:
    name = operator.removeprefix("aten::")
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)


def measure(preset: str, config: ExperimentConfig, steps: int, segment_s: float) -> Row:
    trainer = Trainer(config, "")
    batch, clip_s = config.training.batch_size, config.mixing.crop_s or segment_s
    generator = torch.Generator().manual_seed(0)
    clean, noise = (
        0.05 * torch.randn(batch, 1, round(clip_s * config.model.sample_rate), generator=generator)
        for _ in range(2)
    )

    def cpu_s(what: str) -> float:
        began = time.process_time()
        if what == "step":
            trainer.step(clean + noise, clean, 0.0)
        else:
            estimate = clean.add(0.5 * noise).requires_grad_()
            trainer.loss(estimate, clean, clean + noise).total.backward()
        return time.process_time() - began

    cpu_s("step")
    step_s, loss_s = (statistics.median(cpu_s(what) for _ in range(steps)) for what in ("step", "loss"))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        cpu_s("step")
    times: dict[str, float] = {}
    for event in profiled.key_averages():
        kind = kind_of(event.key)
        times[kind] = times.get(kind, 0.0) + event.self_cpu_time_total
    shares = {kind: spent / sum(times.values()) for kind, spent in times.items()}
    return Row(
        preset=preset, audio_s_per_cpu_s=batch * clip_s / step_s, loss_share=loss_s / step_s, kinds=shares
    )


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    kinds = [*KINDS, OTHER]
    print(f"| preset | audio s per CPU s | of it the loss | {' | '.join(kinds)} |")
    print("|---" * (3 + len(kinds)) + "|")
    for preset in arguments.presets:
        row = measure(preset, load_config(preset, arguments.overrides), arguments.steps, arguments.segment_s)
        cells = " | ".join(f"{row.kinds.get(kind, 0):.0%}" for kind in kinds)
        print(f"| `{preset}` | {row.audio_s_per_cpu_s:.0f} | {row.loss_share:.0%} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
