"""What all commands share: one clear line for wrong use, and help that shows units and defaults."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cluster.errors import one_line, rays_words
from cluster.machine import termination


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's line breaks and appends each option's default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, [], ()):  # "(default: None)" tells a reader nothing
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    def option(self, usage: str, help: str, **settings: Any) -> None:
        """`add_argument` with what the help shows first: option("--port N", "port to listen on", type=int)."""
        flag, _, metavar = usage.partition(" ")
        if metavar:
            settings["metavar"] = metavar
        self.add_argument(flag, help=help, **settings)


def make_parser(name: str, description: str) -> Parser:
    """A parser for `python -m jobs.<name>` whose help explains itself."""
    return Parser(prog=f"python -m jobs.{name}", description=description, formatter_class=HelpFormatter)


def main(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Parses the command line, runs, and exits: 0 done, 1 Ray failed, 2 wrong use or bad input (one line each), 130
    interrupted, 143 told to end by SIGTERM.

    arguments: those of the process unless given.
    Every error that a user can cause derives from ValueError or OSError and says in one line what came, what
    was expected and what to do; those lines are all a user sees. Anything else is our bug and keeps its traceback,
    as does everything when WW_TRACEBACK=1 is set.
    """
    parsed = parser.parse_args(arguments)
    termination.obey()
    try:
        _refuse_empty(parser, parsed)
        run(parsed)
    except KeyboardInterrupt:
        was_told = termination.was_received()
        code = termination.EXIT_CODE if was_told else 130
        termination.end_at_once_when_told_again(code)
        print("told to end" if was_told else "interrupted", file=sys.stderr)
        sys.exit(code)
    except Exception as error:
        words = rays_words(error)
        is_expected = bool(words) or isinstance(error, ValueError | OSError)
        if not is_expected or os.environ.get("WW_TRACEBACK") == "1":
            raise
        print(f"error: {words or one_line(error)}", file=sys.stderr)
        sys.exit(1 if words else 2)
    sys.exit(0)


def _refuse_empty(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """As a folder, it would be the one that the command runs in."""
    for name, value in vars(parsed).items():
        if "" in (value if isinstance(value, list) else [value]) and parser.get_default(name) != "":
            raise ValueError(f"{name} is empty, as a variable is that was never set: give it a value")
