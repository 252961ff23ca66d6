"""The console command: `wave-wizard train ...` is `python -m jobs.train ...`."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
import textwrap
from pathlib import Path
from typing import NoReturn

from jobs import cli

COMMANDS = (
    "demo",
    "prepare",
    "train",
    "tune",
    "evaluate",
    "enhance",
    "export",
    "serve",
    "stream",
    "promote",
    "listen",
)


def main() -> NoReturn:
    """Runs the command that the first argument names; exits as `cli.main` does."""
    program = "wave-wizard" if Path(sys.argv[0]).stem == "wave-wizard" else "python -m jobs"
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(overview(program))
        sys.exit(0)
    if name not in COMMANDS:
        (near,) = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0)
        advice = f"did you mean {near}? {program} --help lists all"
        print(f"error: unknown command {name}; {advice}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(f"jobs.{name}")
    parser = module.parser()
    parser.prog = f"{program} {name}"
    cli.main(parser, module.run, arguments)


def overview(program: str) -> str:
    """All commands with a line each, read from the files: importing them would take many seconds."""
    lines = [f"usage: {program} COMMAND ...", ""]
    for name in COMMANDS:
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines += textwrap.wrap(summary, 100, initial_indent=f"  {name:10}", subsequent_indent=" " * 12)
    return "\n".join([*lines, "", f"{program} COMMAND --help explains one of them."])


if __name__ == "__main__":
    main()
