"""What the page is made of: bounded sounds, short tables, points to draw, curves of runs, what people heard."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cluster.evaluation.excerpts import cut
from cluster.evaluation.files import read_report
from cluster.evaluation.listening.analysis import summarise
from cluster.evaluation.listening.answers import Answer, Listening
from cluster.evaluation.page import page as page_module
from cluster.evaluation.page import scatter
from cluster.evaluation.page.page import render_html, run_curves, score_table
from cluster.evaluation.page.sounds import choose_typical, encode, make_clips
from cluster.evaluation.report import write_report
from cluster.evaluation.scores import CLEAN, NOISY, EvaluationReport, Example
from tests.cluster.evaluation.listening.made_reports import made_answer
from tests.cluster.evaluation.made_scores import FACTS, make_example, make_report, make_score
from tests.test_laws import ROOT
from ww_data import read_audio

RUNS = ROOT / "docs" / "results"


def noise_example(seconds: float, rate: int = 16_000) -> Example:
    """Sounds that no codec makes small."""
    rng = np.random.default_rng(0)
    example = make_example(make_score(0, "<a>", {}, sample_rate=rate), (NOISY, "<a>", CLEAN), seconds)
    signals = {name: rng.uniform(-1, 1, len(x_T)).astype(np.float32) for name, x_T in example.signals.items()}
    return dataclasses.replace(example, signals=signals)


def test_a_long_clip_is_cut_to_where_systems_differ_most() -> None:
    example = make_example(make_score(0, "<a>", {}), (NOISY, "<a>", CLEAN), 30.0)
    other_T = example.signals["<a>"].copy()
    other_T[20 * 16_000 : 24 * 16_000] *= 0.1
    example = dataclasses.replace(example, signals=example.signals | {"<a>": other_T})
    part = cut(example, 10.0)
    assert {len(signal_T) for signal_T in part.signals.values()} == {160_000}
    assert 14 <= part.start_s <= 20
    start = round(part.start_s * 16_000)
    np.testing.assert_array_equal(part.signals["<a>"], other_T[start : start + 160_000])
    again = cut(part, 5.0)
    np.testing.assert_array_equal(
        again.signals[NOISY], example.signals[NOISY][round(again.start_s * 16_000) :][:80_000]
    )
    assert cut(part, 10.0) is part
    long = dataclasses.replace(
        example, signals={name: np.tile(x_T, 5) for name, x_T in example.signals.items()}
    )
    long.signals["<a>"][-80_000:] = 1.0  # the last five seconds of two and a half minutes
    assert cut(long, 10.0).start_s == pytest.approx(140, abs=0.02)
    (clip,) = make_clips([part])
    assert (clip.is_cut, clip.length_s) == (True, 10.0)


def test_sounds_are_cut_until_they_fit_and_lose_nothing_else() -> None:
    examples = [noise_example(4.0), noise_example(1.0), noise_example(2.0, 48_000)]
    whole, cut_s = encode(examples, 10.0, 10**9)
    assert cut_s == 10.0
    samples_TC, rate = read_audio(io.BytesIO(whole[0]["<a>"]))
    assert rate == 16_000
    np.testing.assert_allclose(samples_TC[:, 0], examples[0].signals["<a>"], atol=1e-4)
    for max_bytes in (300_000, 60_000):
        sounds, cut_s = encode(examples, 10.0, max_bytes)
        assert sum(len(content) for files in sounds for content in files.values()) <= max_bytes
        assert 0 < cut_s < 2.0


def test_of_many_examples_a_page_shows_some() -> None:
    examples = [dataclasses.replace(noise_example(0.1), clip_id=f"{n}") for n in range(20)]
    assert [example.clip_id for example in choose_typical(examples)] == ["0", "3", "6", "10", "13", "16"]
    assert choose_typical(examples[:2]) == examples[:2]
    assert choose_typical([]) == []


def test_a_long_table_shows_both_ends() -> None:
    def with_speakers(report: EvaluationReport, num: int) -> EvaluationReport:
        systems = []
        for result in report.systems:
            buckets = tuple(dataclasses.replace(result.overall, bucket=f"speaker {n}") for n in range(num))
            systems.append(dataclasses.replace(result, by=result.by | {"speaker": buckets}))
        return dataclasses.replace(report, systems=tuple(systems))

    report = make_report()
    (way,) = (way for way in page_module._ways(with_speakers(report, 30)) if way["name"] == "speaker")
    assert (len(way["rows"]), way["note"]) == (30, "")
    html = render_html(with_speakers(report, 3000))
    assert len(re.findall(r"speaker \d+, 20 clips", html)) == 20
    assert "Of 3000, the 10 where &lt;a&gt; adds most PESQ" in html


def test_points_are_rounded_bounded_and_know_what_is_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    report = make_report(undefined=True, rival_gain=0.9)
    table = score_table(report)
    data = json.loads(json.dumps(scatter.scatter_data(report, table), allow_nan=False))
    assert (data["x"], data["y"]) == ("<a>", "b")
    assert [measure["name"] for measure in data["measures"][:2]] == ["pesq", "si_sdr_db"]
    pesq = data["measures"][0]["values"]
    assert pesq[data["systems"].index("<a>")][3] is None
    assert pesq[0][0] == pytest.approx(report.scores[0].values["pesq"], abs=1e-3)
    monkeypatch.setattr(scatter, "MAX_CLIPS", 7)
    data = scatter.scatter_data(report, table)
    assert len(data["clips"]) == len(data["measures"][0]["values"][0]) == 7
    assert scatter.first_pair(make_report()) == (NOISY, "<a>")


def test_the_page_of_clips_without_any_value_is_a_page() -> None:
    report = make_report(0.0)
    nothing = {name: float("nan") for name in report.measures}
    scores = tuple(dataclasses.replace(score, values=nothing) for score in report.scores)
    assert "<svg" in render_html(dataclasses.replace(report, scores=scores, extremes=()))


def test_curves_of_runs_are_shown_where_they_lie_beside_the_bundle(tmp_path: Path) -> None:
    assert "While training" not in render_html(make_report())
    report = make_report(rival_gain=0.2)
    runs = ("gatewave-compact", "demucs-compact")
    systems = [
        dataclasses.replace(result, model=dataclasses.replace(FACTS, path=str(RUNS / run / "bundle")))
        for result, run in zip(report.systems[1:], runs, strict=True)
    ]
    report = dataclasses.replace(report, systems=(report.systems[0], *systems))
    assert {name: system for name, (system, _) in run_curves(report).items()} == {"<a>": "<a>", "b": "b"}
    assert "Validation loss, PESQ, STOI and SNR of the runs" in render_html(report)
    (tmp_path / "run.json").write_text("{")
    damaged = dataclasses.replace(systems[0], model=dataclasses.replace(FACTS, path=f"{tmp_path}/bundle"))
    assert run_curves(dataclasses.replace(report, systems=(report.systems[0], damaged))) == {}


def test_what_people_heard_stands_in_page_and_json(tmp_path: Path) -> None:
    def answers(**given: object) -> list[Answer]:
        return [made_answer(f"l{n % 3}", f"c{n}", **given) for n in range(6)]  # type: ignore[arg-type]

    rated = answers(ratings={NOISY: 20.0, "<a>": 80.0, CLEAN: 99.0})
    compared = answers(mode="ab", order=("<a>", NOISY), preferred="<a>")
    listening = Listening(answers=(*rated, *compared, made_answer(report="another")), num_damaged=0)
    report = dataclasses.replace(make_report(), listening=summarise(listening, report="r"))
    html = write_report(report, tmp_path).read_text(encoding="utf-8")
    for words in (
        "3 listeners rated 6 clips blind",
        "Clean speech, hidden",
        "+60",
        "Too few listeners: 3, of the 5",
        "&lt;a&gt; is preferred to noisy in 100 %",
        "1 answers about other reports",
    ):
        assert words in html
    content = read_report(tmp_path)
    assert content["listening"]["mushra"]["systems"][1]["name"] == "<a>"
    assert content["listening"]["preferences"][0]["num_first"] == 6
    del content["listening"]  # as reports were before
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert read_report(tmp_path)["num_clips"] == 20
