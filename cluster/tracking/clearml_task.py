"""A run's side of ClearML: it writes messages, and a process of its own delivers them.

    training process --> tracking/clearml/messages-0001.jsonl --> clearml_process --> server or offline session

So training never waits for a server, whatever the server does; ClearML's process-wide hooks (signals, forks, standard
streams) stay out of the training process; and what was not delivered, because a server was down or the run was killed,
still lies there when the run is resumed, and is delivered then.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cluster.machine.guard import MARK
from cluster.settings.tracking import TrackingConfig

Mode = Literal["online", "offline"]
Outcome = Literal["completed", "failed"]

# ClearML reads these as "you belong to another task or group"; the delivering process does not. Nor does it end with
# the command: what it has not delivered by then it still delivers, or gives up by itself.
_NOT_INHERITED = (MARK, "LOCAL_RANK", "RANK", "WORLD_SIZE", "CLEARML_PROC_MASTER_ID", "TRAINS_PROC_MASTER_ID")
NOTICE_FILE = "notice.txt"
_REPLAY_S = 60.0  # to turn what a server did not take into an offline session


def clearml_mode(choice: Literal["auto", "offline", "never"]) -> Mode | None:
    """How a choice turns out here: auto is online where the environment or a clearml.conf names a server, else None.

    CLEARML_OFFLINE_MODE=1 in the environment, ClearML's own switch, turns auto into offline.
    """
    switch = os.environ.get("CLEARML_OFFLINE_MODE", "").lower()
    if choice == "offline" or (choice == "auto" and switch in ("1", "true", "yes", "on")):
        return "offline"
    conf = os.environ.get("CLEARML_CONFIG_FILE") or "~/clearml.conf"
    has_keys = os.environ.get("CLEARML_API_HOST") and os.environ.get("CLEARML_API_ACCESS_KEY")
    is_configured = has_keys or Path(conf).expanduser().is_file()
    return "online" if choice == "auto" and is_configured else None


def failure_notice(folder: Path, what: str) -> str:
    """What people are told when the delivering process failed."""
    return (
        f"ClearML {what}; {folder} keeps what it should have heard, and a resume of the run delivers it "
        f"(its log: {folder / 'clearml.log'})"
    )


def media_folder(messages: Path) -> Path:
    """Where the sounds, pictures and bundle of a start's messages lie: media/0001 of messages-0001.jsonl."""
    return messages.parent / "media" / messages.stem.rpartition("-")[2]


class ClearMLTask:
    """The task of one run, open from construction to `close`; no call waits for a server.

    A resumed run's task is the one whose id its folder keeps. folder: where messages, their sounds and pictures and
    offline sessions lie.
    """

    def __init__(
        self, folder: Path, mode: Mode, config: TrackingConfig, run_name: str, tags: Sequence[str]
    ) -> None:
        self.folder, self._close_s = folder, config.clearml_close_s
        (folder / NOTICE_FILE).unlink(missing_ok=True)
        numbers = [int(path.stem.rpartition("-")[2]) for path in folder.glob("messages-*.jsonl")]
        messages = folder / f"messages-{1 + max(numbers, default=0):04d}.jsonl"
        self._media = media_folder(messages)
        self._media.mkdir(parents=True, exist_ok=True)
        self._num_media = 0
        self._messages = messages.open("x", encoding="utf-8")
        settings = {"project": config.clearml_project, "close_s": config.clearml_close_s}
        settings |= {"parent": config.clearml_parent} if config.clearml_parent else {}
        self._send("open", name=run_name, tags=list(tags), **settings)
        self._delivery = _Deliverer(folder, mode)

    def config(self, flat: Mapping[str, Any]) -> None:
        """The resolved settings, {dotted path: value}, as hyperparameters."""
        self._send("config", values={name: str(value) for name, value in flat.items()})

    def scalars(self, series: str, values: Mapping[str, float], step: int) -> None:
        """One point of each curve; values by the title of their plot."""
        self._send("scalars", series=series, values=dict(values), step=step)

    def values(self, values: Mapping[str, float]) -> None:
        """What has come out, by title: columns of ClearML's table of tasks."""
        self._send("values", values=dict(values))

    def table(self, title: str, rows: Sequence[Sequence[Any]]) -> None:
        """A table among the plots; the first row is its head."""
        self._send("table", title=title, rows=[list(row) for row in rows])

    def audio(self, name: str, signal_T: np.ndarray, sample_rate: int, step: int) -> None:
        """A sound within full scale; name: "title/series"."""
        import soundfile

        path = self._new_file(".wav")  # 16-bit WAV plays in every browser
        soundfile.write(path, signal_T, sample_rate, subtype="PCM_16")
        self._send("audio", name=name, path=str(path), step=step)

    def image(self, name: str, pixels_HWC: np.ndarray, step: int) -> None:
        """A picture, (H, W, 3) uint8."""
        from PIL import Image

        path = self._new_file(".png")
        Image.fromarray(pixels_HWC).save(path)
        self._send("image", name=name, path=str(path), step=step)

    def model(self, bundle: Path, name: str, metrics: Mapping[str, float]) -> None:
        """The bundle that ships, as output model; it is copied, the caller may remove it."""
        path = shutil.make_archive(str(self._media / "bundle"), "zip", bundle)
        self._send("model", name=name, path=path, metrics=dict(metrics))

    def close(self, outcome: Outcome = "completed") -> None:
        """Lets the task end, within `clearml_close_s` and a minute; what no server took becomes an offline session."""
        self._send("close", outcome=outcome)
        self._messages.close()
        failure = self._delivery.close(timeout_s=self._close_s + _REPLAY_S)
        notice = self.folder / NOTICE_FILE
        if failure and not (failure == _FAILED and notice.is_file()):  # it may have said so itself
            line = failure_notice(self.folder, failure)
            notice.write_text(line, encoding="utf-8")
            print(line, file=sys.stderr, flush=True)

    def _send(self, kind: str, **content: Any) -> None:
        self._messages.write(json.dumps({"kind": kind, **content}) + "\n")
        self._messages.flush()

    def _new_file(self, suffix: str) -> Path:
        self._num_media += 1
        return self._media / f"{self._num_media:06d}{suffix}"


class _Deliverer:
    """The delivering process. It notices by the end of its standard input that the run closed it, or is gone.

    It outlives this process: it is nobody's child, since Ray kills its workers' children with them, and in a session
    of its own, since Ctrl-C is for the run.
    """

    def __init__(self, folder: Path, mode: Mode) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        standard_input, self._input = os.pipe()
        self._done, done = os.pipe()
        deliver = [sys.executable, "-m", "cluster.tracking.clearml_process", str(folder), str(done), mode]
        with (folder / "clearml.log").open("ab") as log:
            parent = subprocess.Popen(
                [sys.executable, "-S", "-c", _DETACH, *deliver],
                stdin=standard_input,
                stdout=2,  # what people should read goes where this process's own complaints go
                stderr=log,
                env=environment,
                start_new_session=True,
                pass_fds=[done],
            )
        os.close(standard_input)
        os.close(done)
        parent.wait()
        self.group = parent.pid  # a process group: it goes by the one that started it

    def close(self, *, timeout_s: float) -> str:
        """Lets it end, or ends it. Returns what went wrong, or an empty string."""
        os.close(self._input)
        in_time = wait([self._done], timeout_s)
        if not in_time:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)
        all_is_well = in_time and os.read(self._done, 1)
        os.close(self._done)
        return "" if all_is_well else _FAILED if in_time else "did not end in time"


_FAILED = "failed"
_DETACH = "import os, sys; os.fork() or os.execv(sys.argv[1], sys.argv[1:])"
