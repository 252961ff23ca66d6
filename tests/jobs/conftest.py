"""How tests run a command: as `python -m jobs.NAME` does, but in their own process."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from jobs import cli


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


@pytest.fixture
def run_job(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """run_job("export", "--bundle", folder, ...), with arguments of any kind."""

    def run(name: str, *arguments: object) -> Done:
        module = importlib.import_module(f"jobs.{name}")
        with pytest.raises(SystemExit) as stop:
            cli.main(module.parser(), module.run, [*map(str, arguments)])
        printed = capsys.readouterr()
        return Done(int(stop.value.code or 0), printed.out, printed.err)

    return run
