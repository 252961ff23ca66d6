"""What a user sees of what Ray raises: one line; and of a fault of ours: all of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest
import ray

from jobs import cli


def raise_(error: Exception) -> Callable[[argparse.Namespace], None]:
    def run(arguments: argparse.Namespace) -> None:
        raise error

    return run


def in_rays_code(arguments: argparse.Namespace) -> None:
    ray.remote(5)


def of_a_task(cause: Exception) -> Exception:
    try:
        raise cause
    except type(cause) as error:
        words = f"Traceback (most recent call last):\n  File ...\n{type(error).__name__}: {error}"
        return ray.exceptions.RayTaskError("task", words, error).as_instanceof_cause()


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (raise_(ray.exceptions.ActorDiedError()), "ActorDiedError: The actor died unexpectedly"),
        (raise_(ray.exceptions.GetTimeoutError("Get timed out:\nsome object(s)")), "Get timed out:"),
        (raise_(ray.exceptions.OutOfMemoryError("killed for\nmemory")), "ended a process for memory (OutOf"),
        (raise_(of_a_task(ValueError("what is wrong"))), "(ValueError: what is wrong)"),
        (in_rays_code, "The @ray.remote decorator must be"),
    ],
)
def test_what_ray_raises_is_one_line(
    capsys: pytest.CaptureFixture[str], run: Callable[[argparse.Namespace], None], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(argparse.ArgumentParser(), run, [])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_all_of_it_is_shown_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WW_TRACEBACK", "1")
    with pytest.raises(ray.exceptions.ActorDiedError):
        cli.main(argparse.ArgumentParser(), raise_(ray.exceptions.ActorDiedError()), [])


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.main(argparse.ArgumentParser(), raise_(ZeroDivisionError("ours")), [])
