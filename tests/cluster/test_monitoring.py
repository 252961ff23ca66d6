"""What Prometheus sees of a run, a sweep and an endpoint with the files that are shipped: each panel has data."""

from __future__ import annotations

import contextlib
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pytest
import yaml

from cluster.machine.scraping import FOLDER_VARIABLE
from cluster.monitoring.boards import BOARDS
from cluster.monitoring.grafana import Panel
from cluster.serving.client import StreamClient, StreamError
from tests.cluster.environment import private_environment
from tests.cluster.serving.clips import DENOISE, file_bytes, recording
from tests.cluster.sockets import assert_on_loopback, free_ports
from tests.conftest import require_program

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "cluster" / "monitoring"
PANELS = [panel for board in BOARDS for panel in board.panels]
# How often is scraped, and Ray's processes report, so that a run of seconds is seen. A scrape may take as long.
EVERY_S = 2
FAST = dict.fromkeys(("RAY_metrics_report_interval_ms", "REPORTER_UPDATE_INTERVAL_MS"), f"{EVERY_S}000")


class Prometheus:
    """A running one. since_s: seconds since 1970 when it began."""

    def __init__(self, address: str) -> None:
        self._client, self.since_s = httpx.Client(base_url=f"{address}/api/v1", timeout=60), time.time()

    def get(self, what: str, **parameters: object) -> Any:
        answer = self._client.get(what, params={name: str(value) for name, value in parameters.items()})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def values(self, query: str) -> list[float]:
        """Of all series at all times, as Grafana would draw them."""
        whole = {"start": self.since_s, "end": time.time(), "step": 1}
        series = self.get("query_range", query=query, **whole)["result"]
        return [value for one in series for _, text in one["values"] if not math.isnan(value := float(text))]

    def wait_for(self, query: str, value: float) -> None:
        """Until its last value is that."""
        deadline = time.monotonic() + 120
        while (values := self.values(query))[-1:] != [value]:
            assert time.monotonic() < deadline, f"{query}: {values[-3:]}"
            time.sleep(0.5)

    def names(self) -> set[str]:
        return set(self.get("label/__name__/values"))


def shipped_config(targets: Path) -> dict[str, Any]:
    """As it is shipped, but for its pace and for where targets are looked for."""
    config = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"] = dict.fromkeys(config["global"], f"{EVERY_S}s")
    config["rule_files"] = [str(SHIPPED / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    assert "/tmp/ww-metrics/*.json" in discovery["files"]
    discovery.update(files=[str(targets / "*.json")], refresh_interval="1s")
    return config


@contextlib.contextmanager
def prometheus_of(targets: Path, folder: Path) -> Iterator[Prometheus]:
    program, (port,) = require_program("prometheus"), free_ports(1)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(shipped_config(targets)))
    arguments = {
        "config.file": folder / "prometheus.yaml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "warn",
    }
    command = [program, *(f"--{name}={value}" for name, value in arguments.items())]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=5).status_code == 200:
                        break
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "Prometheus did not start"
                time.sleep(0.1)
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def use_endpoint(url: str, prometheus: Prometheus) -> None:
    """A file, a wrong request, a live call whose sound piles up, and a second one, for which there is no room."""
    answer = httpx.post(url + DENOISE, content=file_bytes(recording(0.5)), timeout=60)
    assert answer.status_code == 200
    assert httpx.post(url + DENOISE, content=b"RIFF\x04\0\0\0WAVE", timeout=60).status_code == 400
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    with StreamClient(url, sample_rate=16_000) as client:
        for _ in client.denoise([noise] * 4):  # much faster than real time
            pass
        with pytest.raises(StreamError, match="as many as this machine carries") as refused:
            StreamClient(url, sample_rate=16_000).__enter__()
        assert refused.value.code == "busy"
        prometheus.wait_for("sum(ray_ww_live_calls)", 1)
    prometheus.wait_for("sum(ray_ww_live_calls)", 0)


@pytest.fixture(scope="module")
def prometheus(
    small_corpus: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """One that has watched all of it."""
    folder, targets = tmp_path_factory.mktemp("watched"), tmp_path_factory.mktemp("targets")
    environment = private_environment(**FAST, **{FOLDER_VARIABLE: str(targets)}, PYTHONPATH=str(ROOT))
    arguments = (str(small_corpus), str(bundle), str(folder / "runs"))
    with (
        prometheus_of(targets, folder) as prometheus,
        subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.watched_run", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as watched,
    ):
        assert watched.stdin is not None
        assert watched.stdout is not None
        url = next_line(watched.stdout, "http")
        assert_on_loopback(watched.pid)
        assert len(list(targets.iterdir())) == 1
        use_endpoint(url, prometheus)
        next_line(watched.stdout, "over")
        use_endpoint(url, prometheus)  # to a rate, what a counter begins with is nothing
        yield prometheus
        watched.stdin.close()
        assert watched.wait(120) == 0
        assert not list(targets.iterdir()), "Prometheus would look for it for ever"


def next_line(lines: IO[str], start: str) -> str:
    """The next that begins so; Ray's warnings come between."""
    for line in lines:
        if line.startswith(start):
            return line.strip()
    raise AssertionError(f"it ended before it said {start}")


@pytest.mark.soak
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: re.sub(r"\W+", "-", panel.title))
def test_each_panel_shows_data(prometheus: Prometheus, panel: Panel) -> None:
    for query in panel.queries.values():
        query = re.sub(r'"\$\w+"', '".*"', query.replace("$__rate_interval", "1m"))
        values = prometheus.values(query)
        assert values or panel.needs_gpu, query


@pytest.mark.soak
def test_all_rules_are_evaluated_and_what_they_look_at_is_there(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 15
    there = prometheus.names()
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
        asked = set(re.findall(r"\b(?:ray_|ww:)[\w:]+|\bup\b", rule["query"]))
        assert asked, rule["name"]
        lacking = {name for name in asked - there if not name.startswith("ray_node_g")}  # of GPUs
        assert not lacking, rule["name"]


@pytest.mark.soak
def test_an_endpoint_in_use_and_a_run_raise_no_alert(prometheus: Prometheus) -> None:
    raised = prometheus.get("query_range", query='ALERTS{alertstate="firing"}', start=prometheus.since_s,
                            end=time.time(), step=1)["result"]  # fmt: skip
    names = {one["metric"]["alertname"] for one in raised}
    assert names <= {"LiveCallsOverrun", "DiskAlmostFull", "MemoryShort"}, (
        "beside what was done, and this machine"
    )


@pytest.mark.soak
def test_counted_is_what_was_done(prometheus: Prometheus) -> None:
    def last(query: str) -> float:
        return prometheus.values(query)[-1]

    crop_s, batch, steps = 1.0, 4, 24
    for run in ("trial_000", "trial_001"):
        assert 0 < last(f'sum(ray_ww_train_audio_seconds_total{{run="{run}"}})') <= crop_s * batch * steps
        assert max(prometheus.values(f'max(ray_ww_train_step{{run="{run}"}})')) <= steps
    assert last('sum(ray_ww_requests_total{path="/v1/audio/denoise", status="200"})') == 2
    assert last('sum(ray_ww_live_errors_total{code="busy"})') == 2
    assert last("sum(ray_ww_file_audio_seconds_total)") == pytest.approx(2 * 0.5)
    assert last("sum(ray_ww_live_audio_seconds_total)") == pytest.approx(2 * 4, abs=0.1)
    states = {state: last(f'sum(ray_ww_sweep_trials{{state="{state}"}})') for state in ("done", "left")}
    assert states == {"done": 2, "left": 0}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(SHIPPED / "prometheus.yaml")),
        ("check", "rules", str(SHIPPED / "rules.yaml")),
        ("test", "rules", str(Path(__file__).parent / "alert_cases.yaml")),
    ],
    ids=" ".join,
)
def test_promtool_takes(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [require_program("promtool"), *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
