"""Boards, alerts and their page, as far as it can be seen without Prometheus: they are whole, and agree."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.monitoring.boards import BOARDS, FOLDER
from cluster.monitoring.grafana import Board
from cluster.monitoring.metrics import METRICS, Histogram

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "cluster" / "monitoring" / "rules.yaml").read_text(encoding="utf-8"))["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
OURS = re.compile(r"\bray_(ww_\w+)")


def board_of_file(board: Board) -> dict[str, Any]:
    return json.loads((FOLDER / f"{board.name}.json").read_text(encoding="utf-8"))


def expressions() -> list[str]:
    """All PromQL of boards and rules."""
    queries = [query for board in BOARDS for panel in board.panels for query in panel.queries.values()]
    return queries + [rule["expr"] for group in RULES for rule in group["rules"]]


def published() -> set[str]:
    """Names of our series, without Ray's prefix."""
    names = set()
    for metric in METRICS:
        ends = ("_bucket", "_sum", "_count") if isinstance(metric, Histogram) else ("",)
        names |= {metric.name + end for end in ends}
    return names


def test_files_are_what_is_written_down_here() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{board.name}.json" for board in BOARDS}
    for board in BOARDS:
        written = (FOLDER / f"{board.name}.json").read_text(encoding="utf-8")
        assert written == board.as_json(), "write them anew: python -m cluster.monitoring.boards"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_grafana_takes_a_board(board: Board) -> None:
    content = board_of_file(board)
    assert content["schemaVersion"] >= 39
    assert content["uid"] == f"wave-wizard-{board.name}"
    assert len(content["uid"]) <= 40
    source, *chosen = content["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    variables = {one["name"] for one in chosen}
    ids = [panel["id"] for panel in content["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in content["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        covered = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
            )
        )
        assert not covered & cells, f"{panel['title']} lies over another panel"
        cells |= covered
        assert panel["title"]
        assert panel["description"].endswith((".", "log."))
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for target in (panel, *panel["targets"]):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["expr"]
            assert target["legendFormat"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_what_is_asked_for_is_published_and_what_is_published_is_asked_for() -> None:
    asked = {name for expression in expressions() for name in OURS.findall(expression)}
    assert asked <= published()
    for metric in METRICS:
        assert any(name.startswith(metric.name) for name in asked), f"nobody looks at {metric.name}"


def test_names_are_as_prometheus_wants_them() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"ww_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert (metric.unit == "s") == bool(re.search(r"_seconds(_total)?$", metric.name)), metric.name
        assert not {"instance", "job", "le"} & set(metric.labels)


def test_what_is_recorded_is_used_and_what_is_used_is_recorded() -> None:
    recorded = {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
    used = {name for expression in expressions() for name in re.findall(r"\bww:[\w:]+", expression)}
    assert recorded == used


def test_each_alert_says_what_to_do_and_is_tried_out() -> None:
    cases = (Path(__file__).parent / "alert_cases.yaml").read_text(encoding="utf-8")
    names = [alert["alert"] for alert in ALERTS]
    assert len(set(names)) == len(names)
    assert set(re.findall(r'alertname="(\w+)"', cases)) == set(names)
    for alert in ALERTS:
        assert set(alert["annotations"]) == {"summary", "description"}, alert["alert"]
        assert len(alert["annotations"]["summary"]) < 100
        assert alert["annotations"]["description"].strip().endswith((".", ")"))
        assert alert["labels"]["severity"] in ("critical", "warning")


def test_the_page_lists_all_metrics_and_alerts() -> None:
    for metric in METRICS:
        labels = ", ".join(metric.labels)
        kind, unit = metric.kind, metric.unit
        row = f"| `{metric.published_name}` | {kind} | {unit} | {labels} | {metric.meaning} |"
        assert row in PAGE, f"docs/monitoring.md lacks: {row}"
    listed = re.findall(r"^\| `(ray_ww_\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(metric.published_name for metric in METRICS)
    rows = re.findall(r"^\| `(\w+)` \| (critical|warning) \| \S.*\|$", PAGE, re.MULTILINE)
    assert rows == [(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS]
