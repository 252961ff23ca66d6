"""What may come into force: the best within bounds, surely better than what is there, on the same clips."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cluster.evaluation.files import report_json
from cluster.promotion.decision import (
    Bounds,
    NotPromotedError,
    against,
    candidates,
    evidence,
    refusals,
)
from tests.cluster.evaluation.made_scores import COST, FACTS, HARM, make_report


def content(gain: float = 0.5, rival_gain: float | None = 0.2, **changes: Any) -> dict[str, Any]:
    """A report of "<a>" and "b"; changes: fields of b's result."""
    report = make_report(gain, rival_gain=rival_gain)
    systems = list(report.systems)
    if rival_gain is not None:
        facts = dataclasses.replace(FACTS, bundle_id="demucs-b", path="runs/b/bundle")
        systems[2] = dataclasses.replace(systems[2], **{"model": facts, **changes})
    return dict(json.loads(report_json(dataclasses.replace(report, systems=tuple(systems)), "", [{}])))


def test_the_best_comes_first_and_those_beyond_the_bounds_last() -> None:
    slow = dataclasses.replace(COST, alone={"fp32": 0.3, "int8": 0.2})
    assert [each.name for each in candidates(content(), Bounds())] == ["<a>", "b"]
    assert [each.name for each in candidates(content(0.1), Bounds())] == ["b", "<a>"]
    found = candidates(content(0.1, cost=slow), Bounds(max_real_time_factor=0.1))
    assert [(each.name, each.beyond) for each in found] == [
        ("<a>", ()),
        ("b", ("it takes 0.200 s per second of sound, more than 0.1",)),
    ]
    gentle = dataclasses.replace(HARM, pesq=3.0)
    (_, last) = candidates(content(0.1, harm=gentle), Bounds(min_clean_pesq=4.0))
    assert last.beyond == ("clean speech comes out with a PESQ of 3.00, less than 4",)
    untimed = dataclasses.replace(COST, alone={"fp32": None, "int8": None})
    (_, last) = candidates(content(0.1, cost=untimed), Bounds(max_real_time_factor=0.1))
    assert last.beyond == ("its streams were not timed",)
    never_timed = content(0.1, cost=None)
    assert {each.name for each in candidates(never_timed, Bounds())} == {"<a>", "b"}
    (_, last) = candidates(never_timed, Bounds(max_real_time_factor=0.1))
    assert last.beyond == ("its streams were not timed",)


def test_less_is_better_where_the_measure_says_so() -> None:
    assert [each.name for each in candidates(content(0.5, 0.9), Bounds(by="lsd_db"))] == ["b", "<a>"]


def test_what_was_not_measured_decides_nothing() -> None:
    with pytest.raises(NotPromotedError, match="has no DNSMOS OVRL; it measures pesq"):
        candidates(content(), Bounds(by="dnsmos_ovrl"))
    with pytest.raises(ValueError, match="unknown measure"):
        Bounds(by="peskq")


def test_a_better_one_is_let_in_and_an_equal_or_unknown_one_is_not() -> None:
    report = content()
    best, worse = candidates(report, Bounds())
    change = against(report, best, "demucs-b", "pesq")
    assert change is not None
    assert change.low > 0
    assert change.num_pairs == 20
    assert refusals(best, "demucs-b", change, "pesq") == []
    assert refusals(best, None, None, "pesq") == []
    change = against(report, worse, FACTS.bundle_id, "pesq")
    assert "not surely better than the model in force: PESQ −0.3" in refusals(
        worse, FACTS.bundle_id, change, "pesq"
    )[0].replace("-", "−")
    equal = content(0.5, 0.5)
    change = against(equal, candidates(equal, Bounds())[0], "demucs-b", "stoi")
    assert (change.low, change.high) == (0, 0) if change else False
    assert refusals(best, "demucs-b", change, "stoi")
    assert against(report, best, "somebody", "pesq") is None
    assert "does not measure the model in force (somebody)" in refusals(best, "somebody", None, "pesq")[0]
    assert refusals(best, best.bundle_id, None, "pesq") == ["it is in force already"]


def test_the_evidence_is_json_and_says_what_was_measured() -> None:
    report, bounds = content(), Bounds(min_clean_pesq=4.0)
    best = candidates(report, bounds)[0]
    change = against(report, best, "demucs-b", "pesq")
    kept = json.loads(json.dumps(evidence(report, best, bounds, "demucs-b", change), allow_nan=False))
    assert kept["report"]["manifest_hash"] == "abc123"
    assert kept["against"]["bundle_id"] == "demucs-b"
    assert kept["enhanced"]["pesq"] > kept["noisy"]["pesq"]
    assert kept["harm"]["pesq"] == 4.5
    assert kept["bounds"]["min_clean_pesq"] == 4.0
