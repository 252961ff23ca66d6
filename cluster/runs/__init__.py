"""The folder of a run: settings, checkpoints, results, here or at an address."""
