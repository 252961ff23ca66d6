"""A served model and a sweep of tiny runs on a Ray of its own, which publishes metrics until standard input is closed.

python -m tests.cluster.watched_run CORPUS BUNDLE FOLDER    prints the endpoint's address, then "over" after the sweep
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.machine.session import connect
from cluster.serving.config import LiveConfig, ServingConfig
from cluster.serving.deploy.deployment import serve_bundles
from cluster.settings.experiment import load_config
from cluster.tuning.live import watched
from cluster.tuning.plan import plan_of_space
from cluster.tuning.sweep import open_sweep, run_sweep

# One call at a time, so that a second one is refused, and an overrun as soon as sound is sent ahead.
LIVE = LiveConfig(max_streams=1, overrun_ms=5, stats_interval_s=0.2)
# So that worker, replica and tasks that mix find room on two CPUs.
REPLICA_CPUS, WORKER_CPUS = 0.1, 0.5
SETTINGS = ["tracking.log_every_steps=1", "tracking.clearml=never", "training.max_steps=24"]
SETTINGS.append(f"resources.cpus_per_worker={WORKER_CPUS}")


def main(corpus: str, bundle: str, folder: str) -> None:
    serving = ServingConfig(port=0, cpus_per_replica=REPLICA_CPUS, live=LIVE)
    with connect(num_cpus=2), serve_bundles(bundle, serving) as url:
        print(url, flush=True)
        plan = plan_of_space(
            load_config("tiny", SETTINGS), ["loss.l1_weight=1,2"], search="grid", metric="pesq"
        )
        ledger = open_sweep(plan, corpus, Path(folder), "watched")
        with ledger.held(), watched(ledger):
            run_sweep(ledger)
        print("over", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
