"""Which recipe learns most in the same time: each try trains for the same CPU time, on the same mixtures, alone.

    python benchmarks/recipes.py --data data/mine --tries benchmarks/recipes.yaml --out recipes --minutes 50

A try is a preset and settings on top (`--set` of jobs.train), each but the first with one change. It runs on one
thread, mixing included, and its time is CPU time of that thread: neighbours slow it, but do not shorten it. The
learning rate falls with the time, not with steps, so that a slower try ends as well annealed as a quick one. Scores are
those of the stored validation mixtures; the test split is not looked at.

OUT/NAME holds the bundle and result.json; a try that has one is not run again. OUT/table.md is the table of all.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from cluster.feeding.blocks import MixedItems, mix_positions
from cluster.feeding.stream import FeedConfig
from cluster.settings.experiment import ExperimentConfig
from cluster.training.loop.module import estimate_in_a_row
from cluster.training.loop.weight_average import update
from cluster.tuning.tries import read_tries
from ww_data import Corpus, open_corpus
from ww_models import Denoiser, DenoisingLoss, build_model, save_bundle, score_clip

STEPS_AT_ONCE = 8  # mixed together
MEASURES = ("pesq", "stoi", "si_sdr_db")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="corpus that jobs.prepare wrote")
    add(
        "--tries",
        required=True,
        type=Path,
        metavar="FILE",
        help="YAML: {name: {preset: NAME, set: [KEY=VALUE]}}",
    )
    add("--out", required=True, type=Path, metavar="DIR", help="where results go")
    add(
        "--minutes",
        type=float,
        default=50.0,
        metavar="M",
        help="CPU minutes of each try (default: %(default)s)",
    )
    add(
        "--jobs", type=int, default=2, metavar="N", help="tries at a time, a core each (default: %(default)s)"
    )
    add("--only", nargs="+", metavar="NAME", help="of the tries, these alone")
    return parser


@dataclasses.dataclass(frozen=True, kw_only=True)
class Try:
    name: str
    config: ExperimentConfig
    change: str
    data: str
    out: Path
    minutes: float

    @property
    def result(self) -> dict[str, Any] | None:
        file = self.out / "result.json"
        return json.loads(file.read_text()) if file.exists() else None


class Trainer:
    """A plain loop on one thread: what jobs.train does with one worker, but for the clock that ends it."""

    def __init__(self, config: ExperimentConfig, data: str) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        self.model: Denoiser = build_model(config.model_name, **dataclasses.asdict(config.model))
        self.average = AveragedModel(
            self.model, use_buffers=True, multi_avg_fn=functools.partial(update, config.training.ema_decay)
        )
        self.loss = DenoisingLoss(config.loss, config.model.sample_rate)
        rates = config.optimizer
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=rates.learning_rate, betas=(rates.beta1, rates.beta2)
        )
        self.steps = 0

    def train(self, seconds: float, log: Any) -> None:
        start, losses = time.process_time(), []
        batch, told, parent = self.config.training.batch_size, 0.0, multiprocessing.parent_process()
        while (used := time.process_time() - start) < seconds:
            mixed = self._mixed(STEPS_AT_ONCE)
            for i in range(STEPS_AT_ONCE):
                rows = slice(i * batch, (i + 1) * batch)
                noisy, clean = (torch.from_numpy(x[rows])[:, None] for x in (mixed.noisy_NT, mixed.clean_NT))
                losses.append(self.step(noisy, clean, used / seconds))
            if used - told > 60:
                told = used
                if parent is not None and not parent.is_alive():
                    raise SystemExit("the program that started this try is gone")
                recent = float(np.mean(losses[-200:]))
                print(f"{used / 60:.1f} min, {self.steps} steps, loss {recent:.4f}", file=log, flush=True)

    def _mixed(self, steps: int) -> MixedItems:
        batch = self.config.training.batch_size
        feed = FeedConfig(
            corpus_uri=self.data,
            mixing=self.config.mixing,
            seed=self.config.seed,
            global_batch=batch,
            num_workers=1,
            start_step=0,
            num_steps=1 << 40,
        )
        return mix_positions(feed, np.arange(self.steps * batch, (self.steps + steps) * batch))

    def step(self, noisy: Tensor, clean: Tensor, progress: float) -> float:
        rates = self.config.optimizer
        warm_up = min(1.0, (self.steps + 1) / (rates.warmup_steps + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rates.learning_rate * warm_up * rates.decayed(progress)
        estimate = estimate_in_a_row(self.model, noisy, self.config.training.crops_in_a_row)
        total = self.loss(estimate, clean, noisy).total
        self.optimizer.zero_grad()
        total.backward()
        if rates.gradient_clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), rates.gradient_clip_norm)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.steps += 1
        return float(total.detach())

    @property
    def shipped(self) -> Denoiser:
        """The average of the weights if the config asks for one."""
        model = self.average.module if self.config.training.ema_decay else self.model
        return model.eval()  # type: ignore[no-any-return]


def run(one: Try) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    one.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(one.config, one.data)
    with (one.out / "log.txt").open("a") as log:
        trainer.train(one.minutes * 60, log)
    item_s = one.config.mixing.crop_s or open_corpus(one.data).segment_s
    heard_s = trainer.steps * one.config.training.batch_size * item_s
    scores = score(trainer.shipped, open_corpus(one.data))
    save_bundle(one.out / "bundle", trainer.shipped)
    result = {"change": one.change, "minutes": one.minutes, "steps": trainer.steps}
    result |= {"hours_heard": heard_s / 3600, **scores}
    part = one.out / "result.json.part"
    part.write_text(json.dumps(result, indent=1))
    part.rename(one.out / "result.json")


def score(model: Denoiser, corpus: Corpus) -> dict[str, float]:
    """Mean gains over the stored validation mixtures, and the share of these that lose SI-SDR."""
    mixtures = corpus.mixtures("val")
    gains: dict[str, list[float]] = {name: [] for name in MEASURES}
    for i in range(len(mixtures)):
        noisy_T, clean_T = mixtures[i]
        with torch.inference_mode():
            estimate_T = model(torch.from_numpy(noisy_T.copy())[None, None])[0, 0].numpy()
        before, after = (score_clip(clean_T, x_T, model.sample_rate) for x_T in (noisy_T, estimate_T))
        for name in MEASURES:
            gains[name].append(getattr(after, name) - getattr(before, name))
    return {f"gain_{name}": float(np.nanmean(values)) for name, values in gains.items()} | {
        "share_worse": float(np.mean(np.array(gains["si_sdr_db"]) < 0)),
        "num_mixtures": len(mixtures),
    }


def table(tries: list[Try]) -> str:
    lines = [
        "| try | change | hours heard | PESQ | STOI | SI-SDR dB | worse |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in tries:
        change, result = one.change, one.result
        if result is None:
            lines.append(f"| {one.name} | {change} | not finished | | | | |")
            continue
        scores = [
            f"{result[f'gain_{name}']:+.{digits}f}" for name, digits in zip(MEASURES, (3, 4, 2), strict=True)
        ]
        worse = f"{100 * result['share_worse']:.0f} %"
        lines.append(
            f"| {one.name} | {change} | {result['hours_heard']:.0f} | {' | '.join(scores)} | {worse} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    args = parser().parse_args()
    tries = [
        Try(
            name=name,
            config=one.config,
            change=one.in_words,
            data=args.data,
            out=args.out / name,
            minutes=args.minutes,
        )
        for name, one in read_tries(args.tries).items()
        if not args.only or name in args.only
    ]
    todo = [one for one in tries if one.result is None]
    context = multiprocessing.get_context("spawn")
    # A process each: its CPU time is that of one try.
    with concurrent.futures.ProcessPoolExecutor(args.jobs, context, max_tasks_per_child=1) as pool:
        ended = {pool.submit(run, one): one for one in todo}
        for future in concurrent.futures.as_completed(ended):
            one, error = ended[future], future.exception()
            print(f"{one.name}: {f'failed ({error})' if error else one.result}", flush=True)
            (args.out / "table.md").write_text(table(tries))
    print(table(tries))


if __name__ == "__main__":
    main()
