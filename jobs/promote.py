"""Exchanges the models of a running endpoint: no call and no request is dropped.

Calls and files that have begun end with the model that they began with; what comes later gets the new one.
A bundle that cannot be loaded is refused before anything changes.
With RAY_ADDRESS set it is the endpoint on that cluster, otherwise the one of `jobs.serve` on this machine.

example: python -m jobs.promote --bundle runs/better/bundle --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import os

from cluster.machine.session import connect
from cluster.serving.deploy.deployment import checked_bundles
from cluster.serving.deploy.promotion import promote, promote_at
from jobs.cli import main, make_parser


def parser() -> argparse.ArgumentParser:
    parser = make_parser("promote", __doc__)
    bundles = "bundle to serve from now on; may be given several times, the first one is the default"
    parser.option("--bundle DIR", bundles, required=True, action="append")
    parser.option("--url URL", "of an endpoint on this machine (default: the only one that you run)")
    parser.option("--keep", "what is served already can still be asked for by its id", action="store_true")
    return parser


def run(arguments: argparse.Namespace) -> None:
    bundles = checked_bundles(arguments.bundle)
    if "RAY_ADDRESS" in os.environ:
        with connect():
            served = promote(bundles, keep=arguments.keep)
    else:
        served = promote_at(arguments.url, bundles, keep=arguments.keep)
    for number, (model_id, bundle) in enumerate(served):
        print(f"serving {model_id} from {bundle}{'' if number else ' (default)'}")


if __name__ == "__main__":
    main(parser(), run)
