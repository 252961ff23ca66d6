"""What all commands share: one clear line for wrong use, and help that shows units and defaults."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from cluster.errors import one_line


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's line breaks and appends each option's default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, [], ()):  # "(default: None)" tells a reader nothing
            return action.help
        return super()._get_help_string(action)


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser for `python -m jobs.<prog>` whose help explains itself."""
    return argparse.ArgumentParser(
        prog=f"python -m jobs.{prog}", description=description, formatter_class=HelpFormatter
    )


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> NoReturn:
    """Parses the command line, runs, and exits: 0 done, 2 wrong use or bad input (one line), 130 interrupted.

    Every error that a user can cause derives from ValueError or OSError and says in one line what came, what
    was expected and what to do; those lines are all a user sees. Anything else is our bug and keeps its traceback,
    as does everything when WW_TRACEBACK=1 is set.
    """
    arguments = parser.parse_args()
    try:
        run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("WW_TRACEBACK") == "1":
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
