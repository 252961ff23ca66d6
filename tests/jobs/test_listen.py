"""`python -m jobs.listen`: serves on loopback until Ctrl-C, and says what came out."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from cluster.evaluation.listening.answers import append_answer, read_listening
from cluster.evaluation.listening.source import open_source
from tests.cluster.evaluation.listening.made_reports import made_answer, write_made_report
from tests.cluster.sockets import listening
from tests.jobs.conftest import Done


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_report(tmp_path_factory.mktemp("listen") / "report", seconds=0.6)


def test_it_serves_until_ctrl_c(report: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "jobs.listen", "--report", str(report), "--answers", str(answers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        assert first.startswith("mushra test of 3 clips, 5 stimuli each, at http://127.0.0.1:"), first
        assert second == f"answers go to {answers}; Ctrl-C ends it\n"
        url = first.split()[-1]
        assert set(listening(process.pid)) == {url.removeprefix("http://")}
        with httpx.Client(base_url=url, timeout=60) as client:  # and stays connected
            assert "<title>Listening test</title>" in client.get("/").text
            session = client.post("/api/sessions", json={"listener": "anna"}).json()
            reply = {
                "plays": dict.fromkeys((*"ABCDE", "reference"), 1),
                "ratings": dict.fromkeys("ABCDE", 95),
                "seconds": 1,
            }
            client.put(f"/api/sessions/{session['session']}/screens/1", json=reply).raise_for_status()
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert out == f"ended; {' '.join(['python', *command[1:5]])} --results says what came out\n"
    assert errors.splitlines()[-1] == (
        "note: the report has 3 examples, not 12: python -m jobs.evaluate ... --examples 12 writes a report with more"
    )
    assert "Traceback" not in errors
    assert len(read_listening(answers).answers) == 1


def test_results_are_printed(run_job: Callable[..., Done], report: Path, tmp_path: Path) -> None:
    path, identity = tmp_path / "answers.jsonl", open_source(report).identity
    rng = np.random.default_rng(0)
    for listener in ("anna", "ben", "deaf"):
        for clip in ("a", "b", "c"):
            found = 20.0 if listener == "deaf" else 100.0
            ratings = {"noisy": 30.0, "one": 60.0 + rng.integers(5), "clean": found}
            append_answer(path, made_answer(listener, clip, ratings, report=identity))
            preferred = {"mode": "ab", "order": ("one", "two"), "preferred": "one", "report": identity}
            append_answer(path, made_answer(listener, clip, **preferred))
    append_answer(path, made_answer("anna", "a", {"one": 1.0}))
    with path.open("ab") as file:
        file.write(b'{"half')
    done = run_job("listen", "--report", report, "--answers", path, "--results")
    assert done.code == 0
    assert "2 listeners, 3 clips, 6 screens" in done.out
    rows = [line for line in done.out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == [
        *("hidden reference", "one", "noisy"),
        *("one", "two", "no difference"),
    ]
    assert [cell.strip() for cell in rows[3].split("│")[1:-1]] == ["one", "9", "100 %", "66 to 100 %"]
    for words in (
        "set apart: deaf rated the hidden reference below 90 in 3 of 3 clips",
        "warning: too few listeners: 2",
        "warning: too few answers: 9 prefer one of one and two; its interval is 34 % wide",
        "note: 1 answer about other reports is left out",
        "note: 1 damaged line is left out",
    ):
        assert words in done.out, done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--report", "nowhere"], "--report is a folder that jobs.evaluate wrote"),
        (["--report", "{report}", "--clips", "0"], "at least 1"),
        (["--report", "{report}", "--systems", "three"], "the report has noisy, one, two"),
        (["--report", "{report}", "--port", "99999", "--answers", "{tmp}/a"], "choose another --port"),
        (["--report", "{report}", "--answers", "{tmp}"], "choose another --answers"),
        (["--report", "{report}", "--answers", "{tmp}/none", "--results"], "no answers yet"),
        (["--report", "{report}", "--answers", "{report}/report.json"], "no answers of a listening test"),
    ],
)
def test_wrong_use_is_one_line(
    run_job: Callable[..., Done], report: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = run_job("listen", *(text.format(report=report, tmp=tmp_path) for text in arguments))
    assert done.code == 2
    assert words in done.error


def test_damaged_sounds_are_said_before_anybody_listens(run_job: Callable[..., Done], tmp_path: Path) -> None:
    report = write_made_report(tmp_path / "report", seconds=0.6)
    (report / "examples" / "1-one.wav").write_bytes(b"RIFF")
    done = run_job("listen", "--report", report)
    assert done.code == 2
    assert "1-one.wav" in done.error
