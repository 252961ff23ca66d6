"""`wave-wizard COMMAND` is `python -m jobs.COMMAND`, and its list of commands comes at once."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "/usr/bin/wave-wizard"  # as the script that pip installs sees itself


@pytest.fixture
def wave_wizard(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """wave_wizard("train", "--help") calls what the project's entry point names; returns the exit code."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, function = settings["project"]["scripts"]["wave-wizard"].partition(":")
    main = getattr(importlib.import_module(module), function)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [PROGRAM, *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    return call


def python(*arguments: str) -> str:
    """What Python prints, run in the project's folder."""
    environment = os.environ | {"COLUMNS": "120"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_all_jobs_are_commands() -> None:
    files = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__", "__main__", "cli"}
    assert sorted(COMMANDS) == sorted(files)


def test_help_lists_the_commands_with_their_own_words(
    wave_wizard: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--help"], []):
        assert wave_wizard(*arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "usage: wave-wizard COMMAND ..."
        assert (
            "  promote   Puts a model into force, with what speaks for it, or a bundle into a running endpoint."
            in lines
        )
        assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == list(
            COMMANDS
        )


def test_an_unknown_command_names_the_nearest(
    wave_wizard: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, nearest in (("trian", "train"), ("nonsense", "serve"), ("--data", "train")):
        assert wave_wizard(name, "x") == 2
        advice = f"did you mean {nearest}? wave-wizard --help lists all"
        assert capsys.readouterr().err == f"error: unknown command {name}; {advice}\n"


def test_a_command_gets_its_arguments(
    wave_wizard: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert wave_wizard("enhance", "nothing.wav", "--bundle", "b", "--out", "o", "--strength", "2") == 2
    assert capsys.readouterr().err.startswith("error: --strength must lie between 0")
    assert wave_wizard("enhance", "--strengh", "2") == 2
    assert "usage: wave-wizard enhance [-h]" in capsys.readouterr().err


def test_the_list_is_light_and_help_names_the_way_it_was_called() -> None:
    code = "import sys; from jobs.__main__ import overview; overview('x'); print(*sys.modules)"
    assert not {"torch", "ray", "numpy", "rich"} & set(python("-c", code).split())
    assert python("-m", "jobs").startswith("usage: python -m jobs COMMAND ...\n")
    assert python("-m", "jobs", "enhance", "--help").startswith("usage: python -m jobs enhance [-h]")
    assert python("-m", "jobs.enhance", "--help").startswith("usage: python -m jobs.enhance [-h]")


NO_HOME = """
import os, pwd
os.environ.pop("HOME", None)
def getpwuid(uid):
    raise KeyError("uid not found")
pwd.getpwuid = getpwuid
import jobs
"""


def test_a_user_without_a_home_is_told_before_libraries_ask_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_HOME], cwd=ROOT, capture_output=True, text=True, check=False
    )
    expected = "error: this user has no home folder; set HOME to a folder that it may write to\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "jobs"),
        ("-m", "jobs.enhance", "a.wav", "--bundle", "b", "--out", "c"),
        ("-c", "from jobs.__main__ import main; main()"),
    ],
)
def test_a_folder_that_is_gone_is_told_before_libraries_end_the_process(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    command = ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(tmp_path), sys.executable, *arguments]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    expected = "error: the folder that this command runs in is gone; change to another one\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
