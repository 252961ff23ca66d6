"""What the endpoint carries on two cores, its callers included: in Ray Serve, and beside it under plain uvicorn.

    python benchmarks/serving.py --check                                  # half an hour, of which most is live calls
    python benchmarks/serving.py --parts live --seconds 10                # three minutes
    python benchmarks/serving.py --preset demucs48 --precision int8 --sessions 2 4 6 8

All run the same application with the same model on one thread: under uvicorn, in Ray Serve behind HAProxy, as
jobs.serve starts it, and in Ray Serve behind its own proxy, which takes HAProxy's place where that is missing. Parts:
    live   sessions at the pace of speech, a chunk of one hop at a time, more and more until it is too many: until
           a chunk's answer takes longer than 40 ms in one of a hundred cases, or the server says that it is behind
    http   a recording of 10 s, beside the model by itself
    files  eight sessions, and the same while four recordings of one hour are denoised
The model has random weights unless --bundle names one.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from serving_load import LiveLoad, file_times, live_load, long_files, noise
from serving_servers import CORES, SERVERS, running

from cluster.serving.config import LiveConfig, ServingConfig
from cluster.serving.live.capacity import CONNECTION_COST, MAX_STREAMS, PYTHON_PROXY_COST, measure_capacity
from cluster.serving.models import load_model
from ww_models import PRESETS, build_model, save_bundle

PARTS = ("live", "http", "files")
BASELINE, FALLBACK = "uvicorn", "Ray Serve"
MAX_P99_MS, MIN_SHARE_OF_UVICORN, MAX_RISE_MS = 40.0, 0.7, 10.0
MIN_SESSIONS = {"demucs48": 4, "demucs64": 2}  # of the others:
MIN_SESSIONS_COMPACT = 20
CLIP_S, NUM_REQUESTS, MAX_TIMES_MODEL, MAX_EXTRA_S = 10.0, 20, 1.5, 0.025
NUM_BESIDE_FILES, NUM_FILES, FILE_S = 8, 4, 3600.0

console = Console(width=140)
Bar = tuple[str, str, str, bool]  # what, value, what it is to be, whether it is


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", default="gatewave-compact", choices=[name for name in PRESETS if name != "waveunet"])
    add("--bundle", type=Path, metavar="DIR", help="a trained model instead")
    add("--precision", default="fp32", choices=("fp32", "int8"), help="default: %(default)s")
    add("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    add("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    add("--sessions", nargs="+", type=int, metavar="N", help="how many at a time, one after the other")
    add("--seconds", type=float, default=60.0, help="of sound of each measurement (default: %(default)s)")
    add("--sample-rate", type=int, metavar="HZ", help="of the calls (default: the model's; browsers: 48000)")
    add("--file-seconds", type=float, default=FILE_S, help="of each long recording (default: %(default)s)")
    add("--check", action="store_true", help="a missed bar is exit code 1")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of all that are started from here
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ww-serving-") as folder:
        bundle = arguments.bundle or save_bundle(
            Path(folder) / "model", build_model(**PRESETS[arguments.preset])
        )
        config = ServingConfig(
            port=0,
            precision=arguments.precision,
            live=LiveConfig(max_streams=MAX_STREAMS, follows_load=False),
        )
        bars = Benchmark(arguments, bundle, config, Path(folder)).run()
    met = report_bars(bars)
    raise SystemExit(0 if met or not arguments.check else 1)


class Benchmark:
    """Runs the parts that were asked for, one server after the other, and prints their tables."""

    def __init__(
        self, arguments: argparse.Namespace, bundle: Path, config: ServingConfig, folder: Path
    ) -> None:
        self.arguments, self.bundle, self.config, self.folder = arguments, bundle, config, folder
        self.name = arguments.bundle.name if arguments.bundle else arguments.preset
        self.min_sessions = MIN_SESSIONS.get(arguments.preset, MIN_SESSIONS_COMPACT)

    def run(self) -> list[Bar]:
        parts, bars = self.arguments.parts, []
        capacities = self._capacities() if "live" in parts else {}
        live: dict[str, list[LiveLoad]] = {}
        for server in self.arguments.servers:
            with self._started(server) as url:
                if "live" in parts:
                    live[server] = self._live(server, url, self._levels(capacities[server]))
                if "http" in parts:
                    bars += self._http(server, url)
                if "files" in parts:
                    bars += self._files(server, url)
        if live:
            self._show_live(live, capacities)
            bars += self._live_bars(live, capacities)
        return bars

    @contextlib.contextmanager
    def _started(self, server: str) -> Iterator[str]:
        console.print(f"starting {server}")
        with running(server, self.bundle, self.config) as url:
            yield url

    def _capacities(self) -> dict[str, int]:
        """How many sessions the endpoint would admit by itself on this machine, behind each server."""
        engine = load_model(self.bundle, self.config.precision).engine
        assert engine is not None, f"{self.name} needs the whole clip and cannot run live"
        costs = {FALLBACK: PYTHON_PROXY_COST}
        return {
            server: measure_capacity(engine, connection_cost=costs.get(server, CONNECTION_COST)).max_streams
            for server in self.arguments.servers
        }

    def _levels(self, capacity: int) -> list[int]:
        """How many sessions at a time."""
        steps = np.array([0.4, 0.8, 1, 1.2, 1.6, 2, 2.4, 2.8, 3.2])
        by_default = [*np.rint(steps * self.min_sessions).astype(int).tolist(), capacity]
        return sorted({level for level in self.arguments.sessions or by_default if 0 < level <= MAX_STREAMS})

    def _live(self, server: str, url: str, levels: list[int]) -> list[LiveLoad]:
        """The levels up to the first that is too many, twice: the first time it may have been another program."""
        loads: list[LiveLoad] = []
        for level in levels:
            load = self._measure(server, url, level)
            loads.append(load if holds(load) else self._measure(server, url, level))
            if not holds(loads[-1]):
                break
        return loads

    def _measure(self, server: str, url: str, num_sessions: int, beside: str = "") -> LiveLoad:
        load = live_load(url, num_sessions, self.arguments.seconds, self.arguments.sample_rate)
        console.print(
            f"{server}: {num_sessions} sessions{beside}: p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms, "
            f"at most {load.max_ms:.0f} ms, {load.num_overruns} overruns; CPU of the server "
            f"{load.server_cores:.2f}, of the client {load.client_cores:.2f}; it sent {load.late_p99_ms:.1f} ms late"
        )
        return load

    def _show_live(self, live: dict[str, list[LiveLoad]], capacities: dict[str, int]) -> None:
        table = Table(
            title=f"{self.name}, {self.config.precision}: live sessions, {self.arguments.seconds:g} s each, {CORES} "
            f"cores; the endpoint would admit "
            + ", ".join(f"{capacity} ({server})" for server, capacity in capacities.items())
        )
        table.add_column("sessions", justify="right")
        for server in live:
            for column in ("p50 ms", "p99 ms", "overruns", "CPU", "client's"):
                table.add_column(f"{server}\n{column}", justify="right")
        rows = {
            load.num_sessions: [self._cells(loads, load.num_sessions) for loads in live.values()]
            for load in itertools.chain(*live.values())
        }
        for num_sessions, cells in sorted(rows.items()):
            table.add_row(str(num_sessions), *itertools.chain(*cells))
        console.print(table)

    def _cells(self, loads: list[LiveLoad], num_sessions: int) -> list[str]:
        for load in loads:
            if load.num_sessions == num_sessions:
                cpu = f"{load.server_cores:.2f}", f"{load.client_cores:.2f}"
                return [f"{load.p50_ms:.1f}", f"{load.p99_ms:.1f}", str(load.num_overruns), *cpu]
        return [""] * 5

    def _live_bars(self, live: dict[str, list[LiveLoad]], capacities: dict[str, int]) -> list[Bar]:
        """Of what stands in for HAProxy no number is asked, but that those whom it admits are served well."""
        bars: list[Bar] = []
        for server in (name for name in live if name != BASELINE):
            carried, least = num_carried(live[server]), self.min_sessions
            if server != FALLBACK:
                bars.append((f"{server}: sessions", f"{carried}", f">= {least}", carried >= least))
            if server != FALLBACK and BASELINE in live:
                share = carried / max(1, num_carried(live[BASELINE]))
                met = share >= MIN_SHARE_OF_UVICORN
                bars.append((f"{server}: of uvicorn's", f"{share:.2f}", f">= {MIN_SHARE_OF_UVICORN:g}", met))
            if not self.arguments.sessions:
                capacity = capacities[server]
                at_capacity = [load for load in live[server] if load.num_sessions == capacity]
                shown = f"{at_capacity[0].p99_ms:.1f} ms" if at_capacity else "missed before"
                met = any(map(holds, at_capacity))
                bars.append((f"{server}: p99 of {capacity} sessions", shown, f"<= {MAX_P99_MS:g} ms", met))
        return bars

    def _http(self, server: str, url: str) -> list[Bar]:
        times = file_times(url, self.bundle, self.config.precision, NUM_REQUESTS, CLIP_S)
        console.print(
            f"{server}: {CLIP_S:g} s over HTTP {1000 * times.http_s:.0f} ms; the engine by itself "
            f"{1000 * times.engine_s:.0f} ms, torch over the whole clip {1000 * times.torch_s:.0f} ms"
        )
        if server == BASELINE:
            return []
        allowed_s = MAX_TIMES_MODEL * times.torch_s + MAX_EXTRA_S
        shown = f"{1000 * times.http_s:.0f} ms", f"<= {1000 * allowed_s:.0f} ms"
        return [(f"{server}: {CLIP_S:g} s over HTTP", *shown, times.http_s <= allowed_s)]

    def _files(self, server: str, url: str) -> list[Bar]:
        path = self.folder / "long.wav"
        self._write_long_file(path)
        alone = self._measure(server, url, NUM_BESIDE_FILES)
        with long_files(url, path, NUM_FILES) as received:
            before = received()
            beside = self._measure(server, url, NUM_BESIDE_FILES, f" beside {NUM_FILES} files")
            num_bytes = received() - before
        console.print(f"{server}: {num_bytes / 1e6:.0f} MB of the files came back meanwhile")
        if server == BASELINE:
            return []
        rise_ms = beside.p99_ms - alone.p99_ms
        met = rise_ms <= MAX_RISE_MS and not beside.num_overruns
        what = f"{server}: rise of p99 beside {NUM_FILES} files"
        return [(what, f"{rise_ms:.1f} ms", f"<= {MAX_RISE_MS:g} ms", met)]

    def _write_long_file(self, path: Path) -> None:
        rate = load_model(self.bundle).sample_rate
        minute = noise(60, rate)
        with soundfile.SoundFile(path, "w", rate, 1) as file:
            for _ in range(round(self.arguments.file_seconds / 60)):
                file.write(minute)


def holds(load: LiveLoad) -> bool:
    return load.p99_ms <= MAX_P99_MS and not load.num_overruns


def num_carried(loads: list[LiveLoad]) -> int:
    """The most sessions that were carried; those who follow were too many."""
    return max((load.num_sessions for load in loads if holds(load)), default=0)


def report_bars(bars: list[Bar]) -> bool:
    """Prints them; whether all are met."""
    table = Table()
    for column in ("", "measured", "bar", ""):
        table.add_column(column, justify="right")
    for what, value, bar, met in bars:
        table.add_row(what, value, bar, "met" if met else "missed")
    console.print(table)
    return all(met for *_, met in bars)


if __name__ == "__main__":
    main()
