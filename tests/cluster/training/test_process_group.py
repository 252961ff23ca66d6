"""The process group of workers on one machine listens on loopback alone, torch's store included."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.sockets import free_ports

ROOT = Path(__file__).resolve().parents[3]
RANK = """
import datetime, os, sys
import psutil, torch.distributed as dist
from cluster.training.process_group import stay_on_loopback

stay_on_loopback()
rank = int(sys.argv[1])
dist.init_process_group("gloo", "env://", datetime.timedelta(seconds=200), 2, rank)
ranks = [None, None]
dist.all_gather_object(ranks, rank)
sockets = psutil.Process().net_connections("inet")
print([ranks, [list(one.laddr) for one in sockets if one.status == psutil.CONN_LISTEN]], flush=True)
dist.barrier()
"""


def test_all_of_it_listens_on_loopback() -> None:
    (port,) = free_ports(1)
    address = {"MASTER_ADDR": "127.0.0.2", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank)],
            env=os.environ | address,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        found = [ast.literal_eval(rank.communicate(timeout=240)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [ranks_seen for ranks_seen, _ in found] == [[0, 1], [0, 1]]
    assert ["127.0.0.2", int(address["MASTER_PORT"])] in found[0][1], "the store"
    for _, listening in found:
        assert listening
        assert all(host.startswith("127.") for host, _ in listening)
