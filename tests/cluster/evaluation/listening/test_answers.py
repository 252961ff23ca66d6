"""The file of answers: whole lines, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.evaluation.listening.answers import append_answer, last_answers, read_listening
from cluster.evaluation.listening.source import ListeningError
from tests.cluster.evaluation.listening.made_reports import made_answer

ANSWERS = [
    made_answer("anna", "a", {"one": 50.0, "clean": 100.0}, plays={"one": 2}, comment='Straße\n"—" \u2028'),
    made_answer("ben", "a", mode="ab", preferred="two"),
    made_answer("ben", "b", mode="ab", preferred=None),
]


def test_what_is_stored_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for answer in ANSWERS:
        append_answer(path, answer)
    assert path.read_bytes().count(b"\n") == len(ANSWERS)
    read = read_listening(path)
    assert read.answers == tuple(ANSWERS)
    assert read.num_damaged == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.data())
def test_a_file_that_was_cut_anywhere_loses_its_last_line_alone(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "answers.jsonl"
    path.unlink(missing_ok=True)
    for answer in ANSWERS[:2]:
        append_answer(path, answer)
    whole = path.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    cut = data.draw(st.sampled_from([*ends, *(end + 1 for end in ends)]) | st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = [answer for answer, end in zip(ANSWERS, ends, strict=False) if cut >= end]
    is_half = cut not in {0, *ends, *(end + 1 for end in ends)}
    for more in ([], [ANSWERS[2]]):
        for answer in more:
            append_answer(path, answer)
        read = read_listening(path)
        assert read.answers == (*kept, *more)
        assert read.num_damaged == int(is_half)


def test_many_writers_at_once_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answers = [made_answer(f"listener{n}", "a", {"one": float(n)}, comment="x" * 5000) for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda answer: append_answer(path, answer), answers))
    read = read_listening(path)
    assert read.num_damaged == 0
    assert sorted(a.listener for a in read.answers) == sorted(a.listener for a in answers)


FULL_DISK = """
import resource, sys
from pathlib import Path
from cluster.evaluation.listening.answers import append_answer
from tests.cluster.evaluation.listening.made_reports import made_answer
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
append_answer(path, made_answer("anna", "a", {"one": 1.0}))
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    append_answer(path, made_answer("anna", "b", {"one": 2.0}))
except OSError as error:
    print("refused", path.stat().st_size == size)
"""


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    root = Path(__file__).resolve().parents[4]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, timeout=300)
    assert done.stdout == "refused True\n", done.stderr
    assert [answer.clip for answer in read_listening(path).answers] == ["a"]


def test_the_last_answer_of_a_listener_to_a_clip_counts() -> None:
    first, second = (made_answer("anna", "a", {"one": rating}) for rating in (1.0, 2.0))
    other = made_answer("ben", "a", {"one": 3.0})
    assert list(last_answers([first, other, second]).values()) == [second, other]


def test_what_is_no_file_of_answers_is_said(tmp_path: Path) -> None:
    with pytest.raises(ListeningError, match="no answers yet"):
        read_listening(tmp_path / "none")
    with pytest.raises(ListeningError, match="cannot be read"):
        read_listening(tmp_path)
    for content in (
        '{"a": 1}\n',
        "[1]\n",
        "text",
        '{"format": "wave-wizard-listening", "format_version": 9}',
    ):
        (tmp_path / "other").write_text(content)
        with pytest.raises(ListeningError, match="no answers of a listening test"):
            read_listening(tmp_path / "other")
    (tmp_path / "other").write_text("")
    assert read_listening(tmp_path / "other").answers == ()
