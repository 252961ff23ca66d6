"""The commands: `python -m jobs.train` and its like."""

import sys
from pathlib import Path

try:
    Path.cwd()
except FileNotFoundError:  # for which torch's libraries end the process
    print("error: the folder that this command runs in is gone; change to another one", file=sys.stderr)
    sys.exit(2)
try:
    Path.home()
except RuntimeError:  # which Ray, ClearML and others ask for
    print("error: this user has no home folder; set HOME to a folder that it may write to", file=sys.stderr)
    sys.exit(2)
