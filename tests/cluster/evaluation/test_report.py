"""The report: a page that needs nothing but itself, and JSON that any program can read."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.evaluation.files import ReportError, read_report
from cluster.evaluation.page.page import render_html
from cluster.evaluation.report import _put_in_place, write_report
from cluster.evaluation.scores import NOISY, EvaluationReport
from cluster.evaluation.statistics import Interval
from cluster.evaluation.verdict import (
    best_system,
    differences,
    direction,
    format_interval,
    format_score,
    verdict,
)
from tests.cluster.evaluation.made_scores import MEASURED, make_report
from ww_data import read_audio


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
    assert not re.search(
        r"https?:|//[a-z]|@import|<script src|<link|\bimport\(", re.sub(r"base64,[^\"')]*", "", html)
    )
    page = outline(html)
    assert page.loads
    assert all(value.startswith(("data:", "#")) for value in page.loads)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_shows_verdict_tables_pictures_and_sound(page: str) -> None:
    html = page
    tags = outline(html).tags
    assert html.index("makes noisy speech cleaner") < html.index("<table")
    assert tags.count("audio") == tags.count("img") == 3 * 7  # the sides of an example and six extremes
    assert tags.count("svg") == 4  # cost, improvement, distribution, scatter
    assert "prefers-color-scheme: dark" in html
    for text in (
        "data/mine",
        "abc123",
        "gatewave-0123456789ab",
        "37.2 ms",
        "12,345",
        "0.050",
        "a machine",
        "0.0111, 0.0099",
        "0.0044, –",
        "4.50, 30.0 dB",
        "−120.0",
    ):
        assert text in html
    assert "s&amp;1" in html
    assert "&lt;a&gt;" in html
    assert "<a>" not in html
    assert "#0a0b" not in html  # every stand-in colour became one of the page's


def test_undefined_scores_are_said(page: str) -> None:
    assert "PESQ of &lt;a&gt;: 1 of 20 clips (test-00003)" in render_html(make_report(undefined=True))
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
    assert content == read_report(tmp_path / "out") == read_report(page.with_name("report.json"))
    assert (content["format"], content["format_version"]) == ("wave-wizard-evaluation", 2)
    fields = {field.name for field in dataclasses.fields(EvaluationReport)} - {"extremes"}
    assert set(content) == {"format", "format_version", "verdict", "notes"} | fields
    noisy, model = content["systems"]
    assert (noisy["name"], noisy["model"], noisy["harm"], noisy["cost"]) == (NOISY, None, None, None)
    assert model["name"] == "<a>"
    assert model["model"]["latency_ms"] == 37.2
    assert model["harm"] == {"pesq": 4.5, "si_sdr_db": 30.0, "num_clips": 20, "silence_dbfs": -120.0}
    assert model["cost"] == {
        "alone": {"fp32": 0.0111, "int8": 0.0099},
        "batch_16": {"fp32": 0.0044, "int8": None},
    }
    overall = model["overall"]
    assert set(overall["means"]) == set(overall["improvements"]) == set(MEASURED)
    assert overall["means"]["pesq"]["num_undefined"] == 1
    assert overall["improvements"]["pesq"]["num_pairs"] == 19
    assert [bucket["bucket"] for bucket in model["by"]["snr"]] == ["−5 dB", "5 dB"]
    undefined = [score for score in content["scores"] if score["pesq"] is None]
    assert [score["clip_id"] for score in undefined] == ["test-00003"]
    assert content["undefined"] == [{"measure": "pesq", "system": "<a>", "clips": ["test-00003"]}]


def test_parquet_holds_a_row_for_each_clip_and_system(tmp_path: Path) -> None:
    report = make_report(undefined=True)
    write_report(report, tmp_path)
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(rows) == 40
    for row, score in zip(rows, report.scores, strict=True):
        assert (row["clip_id"], row["system"], row["heard"]) == (score.clip_id, score.system, "noisy")
        assert (row["speaker"], row["noise"], row["input_snr_db"]) == (
            score.speaker,
            score.noise,
            score.input_snr_db,
        )
        assert [row[name] for name in MEASURED] == pytest.approx(list(score.values.values()), nan_ok=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "damaged or no JSON"),
        ("[]", "no report"),
        ('{"format": "other"}', "no report"),
        ('{"format": "wave-wizard-evaluation", "format_version": 1}', "format version 1"),
        ('{"format": "wave-wizard-evaluation", "format_version": 2}', "damaged"),
    ],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(ReportError, match=words) as error:
        read_report(tmp_path / "report.json")
    assert "\n" not in str(error.value)


def test_a_report_that_lost_a_part_is_damaged(tmp_path: Path) -> None:
    write_report(make_report(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    del content["systems"][1]["harm"]
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ReportError, match="damaged"):
        read_report(tmp_path)


def test_what_is_better_depends_on_the_measure() -> None:
    more = Interval(mean=1.0, low=0.5, high=1.5, num_pairs=9)
    assert direction(more, "pesq") == 1
    assert direction(more, "lsd_db") == direction(more, "wer") == -1


def test_rivals_are_marked_and_their_differences_said() -> None:
    html = render_html(make_report(0.5, rival_gain=0.2))
    assert html.count("★") == 5 + 1  # a column each, and the legend
    assert "≈" in html
    lines = differences(make_report(0.5, rival_gain=0.2))
    assert any(line.startswith("PESQ: <a> − b +0.30 (") for line in lines)
    assert any("no sure difference" in line for line in differences(make_report(0.5, rival_gain=0.5)))


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
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "examples",
        "report.html",
        "report.json",
        "scores.parquet",
    ]


def test_numbers_for_people() -> None:
    assert format_score(-1.234, "si_sdr_db") == "−1.2"
    assert format_score(2.0, "pesq") == "2.00"
    assert format_score(math.nan, "stoi") == "–"
    change = Interval(mean=0.5, low=-0.04, high=math.nan, num_pairs=1)
    assert format_interval(change, "si_sdr_db") == ("+0.5", "−0.0", "–")


def test_what_was_converted_and_how_few_there_were_is_said(tmp_path: Path) -> None:
    report = dataclasses.replace(make_report(), num_speakers=40)
    assert report.notes == []
    at_48_khz = dataclasses.replace(report, sample_rates=(48_000,))
    write_report(at_48_khz, tmp_path)
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert "<a> works at 16000 Hz: clips of 48000 Hz are converted" in notes[0]
    assert notes[1] == "PESQ is that of the sound at 16000 Hz, converted from 48000 Hz"
    assert notes[1] in (tmp_path / "report.html").read_text()
    assert "one speaker" in dataclasses.replace(report, num_speakers=1).notes[0]
    assert "4 speakers" in dataclasses.replace(report, num_speakers=4).notes[0]


def fill(folder: Path, words: str) -> Path:
    """A report's parts, all of which say the same."""
    (folder / "examples").mkdir(parents=True)
    for name in ("examples/1-noisy.wav", "scores.parquet", "report.html", "report.json"):
        (folder / name).write_text(words)
    return folder


def held(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_report_that_is_cut_short_is_the_old_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """At each of its renames: new sounds never lie beside old scores."""
    rename, ends = Path.rename, set()
    for last in range(8):
        out = fill(tmp_path / f"{last}", "old")
        new, count = fill(out / ".report.x", "new"), itertools.count()

        def stop(path: Path, target: Path, last: int = last, count: itertools.count[int] = count) -> Path:
            if next(count) == last:
                if how == "killed":
                    os._exit(0)
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", stop)
        if how == "killed":
            if (child := os.fork()) == 0:
                _put_in_place(new, out)
            os.waitpid(child, 0)
        else:
            with pytest.raises(KeyboardInterrupt):
                _put_in_place(new, out)
        monkeypatch.undo()
        found = held(out)
        if how == "interrupted":
            assert found == held(fill(tmp_path / f"as before {last}", "old"))
        elif "report.json" in found:
            assert found == dict.fromkeys(found, "old")
        ends.add(found.get("report.json"))
    assert ends == ({"old", None} if how == "killed" else {"old"})


def test_what_else_lies_in_the_folder_stays(tmp_path: Path) -> None:
    write_report(make_report(), tmp_path)
    (tmp_path / "listening.jsonl").write_text("answers")
    (tmp_path / "examples" / "mine.txt").write_text("mine")
    (tmp_path / "examples" / "7-old.wav").write_text("of an earlier report")
    write_report(make_report(-0.5), tmp_path)
    assert (tmp_path / "listening.jsonl").read_text() == "answers"
    assert (tmp_path / "examples" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "examples" / "7-old.wav").exists()
    assert not list(tmp_path.glob(".*"))
