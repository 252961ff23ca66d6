"""The tracking of a run as its rank 0 holds it: a tracker, and the folder it writes to, wherever the run lies."""

from __future__ import annotations

import contextlib

from cluster.runs.folder import TRACKING_FOLDER
from cluster.runs.transfer import WorkingCopy
from cluster.settings.experiment import ExperimentConfig
from cluster.tracking.code_version import code_commit
from cluster.tracking.tracker import Tracker
from ww_data import Storage


class RunTracking:
    """Open one in rank 0 only, and close it: ClearML's task ends with it.

    tracker: to write to. Of a run at an address, what it writes goes there with each `send`, and at the end.
    """

    def __init__(self, config: ExperimentConfig, run: Storage, run_name: str, manifest_hash: str) -> None:
        tags = [config.preset or config.model_name, f"manifest:{manifest_hash[:12]}"]
        tags += [f"commit:{commit}" for commit in (code_commit(),) if commit]
        self._copy = WorkingCopy(run, TRACKING_FOLDER)
        self.tracker = Tracker(config.tracking, self._copy.path, run_name, tags=tags)
        self.tracker.config(config.flat())

    def send(self) -> None:
        self.tracker.flush()
        self._copy.send()

    def close(self, *, failed: bool = False) -> None:
        """failed: an error is on its way, which those of writing (to a full disk, say) must not hide."""
        with contextlib.ExitStack() as stack:
            if failed:
                stack.enter_context(contextlib.suppress(OSError))
            stack.callback(self._copy.close)
            self.tracker.close(failed=failed)
