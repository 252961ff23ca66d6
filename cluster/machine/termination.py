"""SIGTERM (`kill`, a batch system, `ray job stop`) ends a command as Ctrl-C does, with an exit code of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM

_was_received = False


def obey() -> None:
    """From now on SIGTERM raises KeyboardInterrupt in this process."""
    global _was_received
    _was_received = False
    if _is_main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def was_received() -> bool:
    return _was_received


def end_at_once_when_told_again(code: int) -> None:
    """From now on Ctrl-C or SIGTERM ends this process on the spot: what tidies up at the exit, Ray's part of it too,
    would print a trace. What is left then ends by `cluster.machine.guard`.
    """
    if _is_main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(code))


def _interrupt(number: int, frame: FrameType | None) -> None:
    # No class of our own: Ray makes a plain KeyboardInterrupt of whatever is raised while it waits.
    global _was_received
    _was_received = True
    raise KeyboardInterrupt


@contextlib.contextmanager
def delayed() -> Iterator[None]:
    """SIGTERM or Ctrl-C in this block counts at its end: for what may crash if it is interrupted. A second one does not
    wait.
    """
    if not _is_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    received: list[int] = []

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        put_back()

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        put_back()
        for received_number in received:
            signal.raise_signal(received_number)


@contextlib.contextmanager
def time_to_stop(seconds: float, ask: Callable[[], object]) -> Iterator[None]:
    """SIGTERM in this block calls `ask`, upon which the block should end; it does so after `seconds` in any case.

    Then KeyboardInterrupt is raised: at the end of the block, or in it when the time is up or SIGTERM comes again. Does
    nothing where SIGTERM is not obeyed in the first place.
    """
    if not _is_main_thread() or signal.getsignal(signal.SIGTERM) is not _interrupt:
        yield
        return
    main, is_over, asked = threading.get_ident(), threading.Event(), False

    def wait_and_interrupt() -> None:
        ask()
        if not is_over.wait(seconds):
            signal.pthread_kill(main, signal.SIGTERM)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            _interrupt(number, frame)
        asked = True
        threading.Thread(target=wait_and_interrupt, daemon=True).start()

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        is_over.set()
        signal.signal(signal.SIGTERM, _interrupt)
    if asked:
        _interrupt(signal.SIGTERM, None)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
