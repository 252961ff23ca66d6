"""Ledgers of sweeps that never ran: their scores are a known function of the settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.settings.experiment import load_config
from cluster.tuning.ledger import Ledger, Trial
from cluster.tuning.plan import plan_of_space
from cluster.tuning.search import next_values
from ww_data import open_corpus

STEPS = 90
CONFIG = load_config("tiny", [f"training.max_steps={STEPS}", "training.validate_every_steps=10"])
GRID = ("loss.l1_weight=0..4/3", "loss.stft_weight=0.25..4/3:log")


def pesq_of(values: dict[str, Any], seed: int = 0) -> float:
    """Best at equal weights; seeds make 0.01."""
    l1, stft = values.get("loss.l1_weight", 1.0), values.get("loss.stft_weight", 1.0)
    return 2.0 - 0.1 * (l1 - stft) ** 2 / 4 + 0.01 * math.sin(7 * seed + l1)


def made_ledger(
    folder: Path, corpus: Path, space: Sequence[str] = GRID, *, num_pruned: int = 0, **options: Any
) -> Ledger:
    """A sweep of `space` that is done but for its last runs, which were pruned after a third of their steps."""
    plan = plan_of_space(CONFIG, space, metric="pesq", **{"search": "grid", **options})
    ledger = Ledger(folder, plan, open_corpus(str(corpus)))
    for number in range(plan.num_settings):
        values = next_values(plan, ledger.outcomes())
        assert values is not None
        for repeat in range(plan.repeats):
            is_pruned = number >= plan.num_settings - num_pruned
            best = pesq_of(values, repeat) - 0.3 * is_pruned
            name = f"trial_{number:03d}" + (f"_seed{repeat}" if plan.repeats > 1 else "")
            ledger.trials[name] = Trial(
                name=name,
                setting=number,
                repeat=repeat,
                values=values,
                state="pruned" if is_pruned else "done",
                scores={"pesq": best, "stoi": 0.9, "snr_db": 10.0, "si_sdr_db": 10 * best},
            )
            steps = range(10, 1 + STEPS // (3 if is_pruned else 1), 10)
            ledger.curves[name] = [
                {"step": at, "trained_s": at / 2, "pesq": best - math.exp(-at / 20), "stoi": 0.9}
                for at in steps
            ]
    return ledger
