"""The commands: `python -m jobs.train` and its like."""

import sys
from pathlib import Path

try:
    Path.cwd()
except FileNotFoundError:  # for which torch's libraries end the process
    print("error: the folder that this command runs in is gone; change to another one", file=sys.stderr)
    sys.exit(2)
