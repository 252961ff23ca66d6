"""How the workers of a run on one machine find each other: on loopback, where torch's store listens on all networks."""

from __future__ import annotations

import dataclasses
import importlib
import os
import socket
from typing import Any

from ray.train.torch import TorchConfig

from cluster.machine.session import is_on_loopback


class _OnLoopback(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(stay_on_loopback)
        super().on_start(worker_group, backend_config)


@dataclasses.dataclass
class LoopbackTorchConfig(TorchConfig):
    """TorchConfig for workers that all run on this machine."""

    @property
    def backend_cls(self) -> type:
        return _OnLoopback


def torch_config(backend: str) -> TorchConfig:
    """Of the workers' process group; on loopback where Ray is."""
    return (LoopbackTorchConfig if is_on_loopback() else TorchConfig)(backend=backend)


def stay_on_loopback() -> None:
    """Of the process groups that this process joins from now on; called in each worker."""
    from torch.distributed import TCPStore

    rendezvous = importlib.import_module("torch.distributed.rendezvous")  # that name is a function's, too
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", _loopback_interface())

    def store(*, host_name: str, port: int, is_master: bool, **options: Any) -> TCPStore:
        if is_master:
            options["master_listen_fd"] = socket.create_server((host_name, port)).detach()
        return TCPStore(host_name=host_name, port=port, is_master=is_master, **options)

    rendezvous.TCPStore = store  # type: ignore[attr-defined]


def _loopback_interface() -> str:
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
