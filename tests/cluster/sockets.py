"""What a process and all that it has started listens on, and where nobody does."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
from collections.abc import Iterable

import psutil

from cluster.machine.guard import MARK, marked


def free_ports(count: int) -> list[int]:
    """Different ports of loopback where nobody listens now.

    Below those that the system gives to whoever asks for any: what starts meanwhile does not get one of them.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"{count} free ports expected, {len(found)} found")


def processes_of(pid: int) -> list[psutil.Process]:
    """The process of a command, its descendants, and whatever else carries its mark though its parent is gone."""
    root = psutil.Process(pid)
    found = {process.pid: process for process in [root, *root.children(recursive=True)]}
    marks = set()
    for process in list(found.values())[1:]:
        with contextlib.suppress(psutil.Error):
            marks.add(process.environ().get(MARK, ""))
    for mark in marks - {"", root.environ().get(MARK, "")}:
        for other in marked(mark):
            with contextlib.suppress(psutil.Error):
                found.setdefault(other, psutil.Process(other))
    return list(found.values())


def listening(pid: int) -> dict[str, list[str]]:
    """{address:port: the names of who listens there}, TCP, of a command and all that it has started."""
    return listening_of(processes_of(pid))


def listening_of(processes: Iterable[psutil.Process]) -> dict[str, list[str]]:
    """The same of these processes alone."""
    found: dict[str, list[str]] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    name = " ".join(process.cmdline()[:3])[:100]
                    found.setdefault(f"{one.laddr.ip}:{one.laddr.port}", []).append(name)
    return found


def assert_on_loopback(pid: int, known: str = "") -> None:
    """Nobody beyond this machine reaches a command or what it has started. known: what must be among it."""
    found = listening(pid)
    assert not known or known in found, found
    assert_loopback(found)


def assert_loopback(found: dict[str, list[str]]) -> None:
    """And that anything listens at all: what is not seen is not refused."""
    assert len(found) > 3, found
    beyond = {address: names for address, names in found.items() if not _is_loopback(address)}
    assert not beyond, beyond


def _is_loopback(address: str) -> bool:
    host = ipaddress.ip_address(address.rpartition(":")[0])
    inner = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None  # ::ffff:127.0.0.1
    return (inner or host).is_loopback
