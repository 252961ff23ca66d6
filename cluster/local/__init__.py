"""A Ray cluster of several nodes on this machine alone: `python -m cluster.local --help`."""
