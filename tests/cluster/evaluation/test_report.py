"""The report: a page that needs nothing but itself, and JSON that any program can read."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cluster.evaluation.report import (
    best_system,
    format_interval,
    format_score,
    render_html,
    verdict,
    write_report,
)
from cluster.evaluation.scores import (
    NOISY,
    EvaluationConfig,
    EvaluationReport,
    Example,
    ModelFacts,
    Score,
    summarize,
)
from cluster.evaluation.statistics import Interval
from ww_data import read_audio
from ww_models.quality import MEASURES

FACTS = ModelFacts(
    bundle_id="gatewave-0123456789ab",
    path="runs/<a>/bundle",
    architecture="gatewave",
    num_parameters=12_345,
    macs_per_second=1e8,
    latency_ms=37.2,
    real_time_factor=0.05,
    sample_rate=16_000,
    same_corpus=True,
)


def make_report(
    gain: float = 0.5, *, undefined: bool = False, rival_gain: float | None = None
) -> EvaluationReport:
    """Twenty mixtures at two SNRs; the model "<a>" adds `gain` to PESQ and ten times that to SI-SDR."""
    rng = np.random.default_rng(0)
    gains = {NOISY: 0.0, "<a>": gain} | ({} if rival_gain is None else {"b": rival_gain})
    scores = []
    for number in range(20):
        level = rng.normal()
        for system, added in gains.items():
            pesq = 1.5 + 0.1 * level + added + 0.01 * rng.normal()
            scores.append(
                Score(
                    mixture_id=f"test-{number:05}",
                    system=system,
                    mixture_snr_db=(-5.0, 5.0)[number % 2],
                    speaker="s&1",
                    noise_id="n1",
                    pesq=math.nan if undefined and number == 3 and system == "<a>" else pesq,
                    stoi=0.7 + 0.01 * added,
                    snr_db=level,
                    si_sdr_db=level + 10 * added + 0.01 * rng.normal(),
                )
            )
    config = EvaluationConfig(num_resamples=200)
    t = np.arange(8000) / 16_000
    signals = {name: (0.1 * np.sin(2 * np.pi * 440 * t)).astype(np.float32) for name in (*gains, "clean")}
    example = Example(
        mixture_id="test-00000",
        mixture_snr_db=-5.0,
        speaker="s&1",
        noise_id="n1",
        sample_rate=16_000,
        signals=signals,
    )
    return EvaluationReport(
        corpus_uri="data/mine",
        manifest_hash="abc123",
        sample_rate=16_000,
        num_mixtures=20,
        clip_s=4.0,
        config=config,
        systems=tuple(summarize(name, scores, None if name == NOISY else FACTS, config) for name in gains),
        scores=tuple(scores),
        examples=(example,),
        machine="a machine",
        created_at="2030-01-02T03:04:05+00:00",
        duration_s=12.0,
    )


class Outline(HTMLParser):
    """Collects tags, ids and attributes that load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "srcset", "poster", "data", "action"}:
                self.loads.append(value or "")


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    return parser


@pytest.fixture(scope="module")
def page() -> str:
    return render_html(make_report())


def test_the_page_needs_nothing_but_itself() -> None:
    html = render_html(make_report(rival_gain=0.2))
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link", re.sub(r"base64,[^\"')]*", "", html))
    page = outline(html)
    assert page.loads
    assert all(value.startswith(("data:", "#")) for value in page.loads)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_shows_verdict_tables_pictures_and_sound(page: str) -> None:
    html = page
    tags = outline(html).tags
    assert html.index("makes noisy speech cleaner") < html.index("<table")
    assert tags.count("audio") == 3
    assert tags.count("svg") == 4  # improvement, and a spectrogram of each signal
    assert "prefers-color-scheme: dark" in html
    for text in ("data/mine", "abc123", "gatewave-0123456789ab", "37.2 ms", "12,345", "0.050", "a machine"):
        assert text in html
    assert "s&amp;1" in html
    assert "&lt;a&gt;" in html
    assert "<a>" not in html
    assert "#0a0b" not in html  # every stand-in colour became one of the page's


def test_undefined_scores_are_said(page: str) -> None:
    assert "PESQ of &lt;a&gt;: 1 of 20 mixtures" in render_html(make_report(undefined=True))
    assert "Not every score is defined" not in page


@pytest.mark.parametrize(("gain", "words"), [(0.5, "cleaner"), (-0.5, "worse"), (0.0, "no clear difference")])
def test_the_verdict_follows_the_intervals(gain: float, words: str) -> None:
    headline, figures = verdict(make_report(gain))
    assert words in headline
    assert re.search(r"PESQ goes from \d\.\d\d to \d\.\d\d \([+−]\d\.\d\d; 95 % interval", figures)
    assert re.search(r"SI-SDR goes from −?\d\.\d to −?\d\.\d dB \([+−]\d\.\d; 95 % interval", figures)


def test_the_verdict_is_about_the_best_bundle() -> None:
    assert best_system(make_report(0.1, rival_gain=0.4)).name == "b"
    assert best_system(make_report(0.4, rival_gain=0.1)).name == "<a>"


def test_json_holds_the_scores_and_documented_fields(tmp_path: Path) -> None:
    report = make_report(undefined=True)
    page = write_report(report, tmp_path / "out")
    content = json.loads(page.with_name("report.json").read_text())
    assert (content["format"], content["format_version"]) == ("wave-wizard-evaluation", 1)
    fields = {field.name for field in dataclasses.fields(EvaluationReport)}
    assert set(content) == {"format", "format_version", "verdict", "notes"} | fields
    assert [system["name"] for system in content["systems"]] == [NOISY, "<a>"]
    overall = content["systems"][1]["overall"]
    assert set(overall["means"]) == set(overall["improvements"]) == set(MEASURES)
    assert overall["means"]["pesq"]["num_undefined"] == 1
    assert overall["improvements"]["pesq"]["num_pairs"] == 19
    undefined = [score for score in content["scores"] if score["pesq"] is None]
    assert [score["mixture_id"] for score in undefined] == ["test-00003"]
    assert content["systems"][0]["model"] is None
    assert content["systems"][1]["model"]["latency_ms"] == 37.2


def test_examples_are_written_as_they_are_heard(tmp_path: Path) -> None:
    report = make_report()
    write_report(report, tmp_path)
    (example,) = json.loads((tmp_path / "report.json").read_text())["examples"]
    names = example["audio"]
    assert set(names) == {NOISY, "<a>", "clean"}
    assert {tmp_path / name for name in names.values()} == set((tmp_path / "examples").iterdir())
    samples_TC, sample_rate = read_audio(tmp_path / names["clean"])
    assert sample_rate == 16_000
    np.testing.assert_allclose(samples_TC[:, 0], report.examples[0].signals["clean"], atol=1e-4)


def test_writing_twice_replaces(tmp_path: Path) -> None:
    write_report(make_report(), tmp_path)
    page = write_report(make_report(-0.5), tmp_path)
    assert "worse" in page.read_text()
    assert "worse" in json.loads((tmp_path / "report.json").read_text())["verdict"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples", "report.html", "report.json"]


def test_numbers_for_people() -> None:
    assert format_score(-1.234, "si_sdr_db") == "−1.2"
    assert format_score(2.0, "pesq") == "2.00"
    assert format_score(math.nan, "stoi") == "–"
    change = Interval(mean=0.5, low=-0.04, high=math.nan, num_pairs=1)
    assert format_interval(change, "si_sdr_db") == ("+0.5", "−0.0", "–")


def test_what_was_converted_to_be_scored_is_said(tmp_path: Path) -> None:
    report = make_report()
    assert report.notes == []
    at_48_khz = dataclasses.replace(report, sample_rate=48_000)
    write_report(at_48_khz, tmp_path)
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert "<a> works at 16000 Hz: the mixtures of 48000 Hz are converted" in notes[0]
    assert notes[1] == "PESQ is that of the sound at 16000 Hz, converted from 48000 Hz"
    assert notes[1] in (tmp_path / "report.html").read_text()
