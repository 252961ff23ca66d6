"""SIGTERM ends a command as Ctrl-C does, after the time that the work in hand may take."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cluster.machine import termination


@pytest.fixture(autouse=True)
def _obeyed() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    termination.obey()
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_interrupts() -> None:
    assert not termination.was_received()
    with pytest.raises(KeyboardInterrupt):
        told()
    assert termination.was_received()


def work(seconds: float, ask: Callable[[], object], *steps: Callable[[], object]) -> None:
    with termination.time_to_stop(seconds, ask):
        for step in steps:
            step()


def told() -> None:
    signal.raise_signal(signal.SIGTERM)


def test_work_that_is_asked_ends_first() -> None:
    asked, has_ended = threading.Event(), threading.Event()
    with pytest.raises(KeyboardInterrupt):
        work(60, asked.set, told, lambda: asked.wait(30), has_ended.set)
    assert asked.is_set()
    assert has_ended.is_set()
    assert termination.was_received()


def test_work_that_does_not_end_in_time_is_interrupted() -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work(0.2, lambda: None, told, lambda: time.sleep(30))
    assert 0.2 <= time.monotonic() - began < 20


def test_the_second_time_there_is_no_waiting() -> None:
    with pytest.raises(KeyboardInterrupt):
        work(60, lambda: None, told, told, lambda: pytest.fail("it goes on"))


def test_work_that_nobody_stops_is_not_touched() -> None:
    with termination.time_to_stop(60, lambda: None):
        pass
    with pytest.raises(KeyboardInterrupt):
        told()


def test_what_may_not_be_interrupted_goes_to_its_end_unless_told_twice() -> None:
    ours, done = signal.getsignal(signal.SIGTERM), list[str]()

    def start(*steps: Callable[[], object]) -> None:
        with termination.delayed():
            for step in steps:
                step()
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        start(told)
    assert done == ["whole"]
    with pytest.raises(KeyboardInterrupt):
        start(told, told)
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGTERM) is ours


def test_told_again_while_it_tidies_up_it_ends_without_a_word() -> None:
    code = """
import argparse, atexit, os, signal, time
from jobs import cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it

def tidy_up():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

def run(arguments):
    atexit.register(tidy_up)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

cli.main(argparse.ArgumentParser(), run, [])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
