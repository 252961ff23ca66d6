"""The process that delivers a run's messages to ClearML (`cluster/tracking/clearml_task.py` writes them and starts it).

    python -m cluster.tracking.clearml_process FOLDER DONE_FD online | offline [REASON]

It follows FOLDER's newest messages until the run closes or is gone; a byte on file DONE_FD says that all went well.
A server that does not answer at the start, or no longer at the end, makes it start over as an offline session, which
then holds the whole run, earlier starts included.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from cluster.errors import one_line
from cluster.tracking.clearml_task import NOTICE_FILE, failure_notice, media_folder

KNOCK_S = 3.0  # for an answer to a login
OPEN_S = 20.0  # for a server that answered the knock to open a task
KNOCKS_UNTIL_LOST = 3
FOLLOW_S = 0.2


class Delivery:
    """One process's work; `notices` is where people read, standard output and error are the log."""

    def __init__(self, folder: Path, done_fd: int, mode: str, reason: str) -> None:
        self.folder, self.offline, self.reason = folder, mode == "offline", reason
        self._done_fd = done_fd
        os.set_inheritable(done_fd, False)  # its end is this process's end
        self._environment = dict(os.environ)
        self.notices = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # ClearML prints to standard output
        self.run_ended, self._opened = threading.Event(), threading.Event()
        self._deciding = threading.Lock()  # held for good by whoever decides how this process ends
        *self.earlier, self.current = sorted(folder.glob("messages-*.jsonl"))
        self.opening = json.loads(self.current.read_text(encoding="utf-8").splitlines()[0])

    def run(self) -> None:
        threading.Thread(target=self._await_end, daemon=True).start()
        try:
            if not self.offline:
                if refusal := knock():
                    self.go_offline(refusal)
                threading.Thread(target=self._watch_server, daemon=True).start()
            session = ClearMLSession(self.folder, self.opening, offline=self.offline)
            self._opened.set()
            for message in self._messages():
                session.deliver(message)
            session.close()
        except Exception as error:
            if self.offline:
                self.say(failure_notice(self.folder, f"failed ({error})"))
                raise
            self.go_offline(f"{type(error).__name__}: {error}")
        self._deciding.acquire()
        if self.offline:
            self._tell_how_to_upload(session)
        else:
            self._forget_delivered()
        with contextlib.suppress(OSError):  # the run is gone
            os.write(self._done_fd, b"1")

    def say(self, line: str) -> None:
        """Tells people, in one line; the run's driver, which may be elsewhere, reads it from the notice file."""
        line = one_line(line)
        (self.folder / NOTICE_FILE).write_text(line, encoding="utf-8")
        with contextlib.suppress(OSError):  # nobody listens any more
            print(line, file=self.notices, flush=True)

    def go_offline(self, reason: str) -> NoReturn:
        """Starts over as an offline session: ClearML cannot be taken out of a process that it is in."""
        self._deciding.acquire()
        os.dup2(self.notices.fileno(), 1)
        os.set_inheritable(self._done_fd, True)
        arguments = [str(self.folder), str(self._done_fd), "offline", reason]
        command = [sys.executable, "-m", "cluster.tracking.clearml_process", *arguments]
        # With the environment as it was: ClearML has left notes to itself in os.environ.
        os.execve(sys.executable, command, self._environment)

    def _await_end(self) -> None:
        while sys.stdin.buffer.read(1024):
            pass
        self.run_ended.set()

    def _watch_server(self) -> None:
        """Gives up a server that does not open the task in time, or that takes too long after the run's end."""
        if not self._opened.wait(OPEN_S):
            self.go_offline(f"the server did not open a task within {OPEN_S:.0f} s")
        self.run_ended.wait()
        end_s = time.monotonic() + float(self.opening["close_s"])
        refusals = 0
        while refusals < KNOCKS_UNTIL_LOST and time.monotonic() < end_s:
            refusal = knock()
            refusals = refusals + 1 if refusal else 0
            time.sleep(1.0)
        self.go_offline(refusal or f"the server did not take the rest within {self.opening['close_s']} s")

    def _messages(self) -> Iterator[dict[str, Any]]:
        """All that earlier starts left undelivered, then this start's messages until the run closes or is gone."""
        for path in self.earlier:
            with contextlib.suppress(FileNotFoundError):  # delivered meanwhile by the start that wrote it
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                whole = (json.loads(line) for line in lines if line.endswith("\n"))
                yield from (message for message in whole if message["kind"] != "close")
        with self.current.open(encoding="utf-8") as messages:
            while True:
                is_last_look = self.run_ended.is_set()
                position, line = messages.tell(), messages.readline()
                if line.endswith("\n"):
                    yield json.loads(line)
                    continue
                messages.seek(position)
                if is_last_look:
                    return
                self.run_ended.wait(FOLLOW_S)

    def _forget_delivered(self) -> None:
        for path in (*self.earlier, self.current):
            path.unlink(missing_ok=True)
            shutil.rmtree(media_folder(path), ignore_errors=True)
        with contextlib.suppress(OSError):  # a later start's media stay
            (self.folder / "media").rmdir()
        shutil.rmtree(self.folder / "offline", ignore_errors=True)

    def _tell_how_to_upload(self, session: ClearMLSession) -> None:
        """Also removes older sessions: this one holds what they hold."""
        archive = session.offline_folder.with_suffix(".zip")
        for path in (self.folder / "offline").iterdir():
            if path.name.removesuffix(".zip") != session.offline_folder.name:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        previous = session.known_id()
        continued = f", previous_task_id='{previous}'" if previous else ""
        why = f"ClearML did not take the run ({self.reason}): it" if self.reason else "The run"
        self.say(
            f"{why} is kept in an offline session; upload it with "
            f"python -c \"from clearml import Task; Task.import_offline_session('{archive}'{continued})\""
        )


class ClearMLSession:
    """The ClearML task of this process, on a server or as an offline session."""

    def __init__(self, folder: Path, opening: dict[str, Any], *, offline: bool) -> None:
        self.folder, self.offline, self.id_file = folder, offline, folder.parent / "clearml_task.txt"
        self._outcome = "stopped"
        self._model: dict[str, Any] | None = None
        if offline:
            # By default sessions lie in the user's home: keep them with the run.
            os.environ["CLEARML_CACHE_DIR"] = str(folder)
        # By default ClearML drops what it was sending when a server answers so: try again.
        os.environ.setdefault("CLEARML_API_EXTRA_RETRY_CODES", "500,504")
        import clearml
        from clearml.backend_interface.task.development import stop_signal

        Task: Any = clearml.Task
        Task.set_offline(offline)
        Task._report_subprocess_enabled = False  # this process is the one that reports
        stopping: Any = stop_signal.TaskStopSignal
        stopping.enabled = False  # "abort" in the browser would end this process, not the training
        known = "" if offline else self.known_id()
        self._task: Any = Task.init(
            project_name=opening["project"],
            task_name=opening["name"],
            tags=opening["tags"],
            reuse_last_task_id=known or False,
            continue_last_task=0 if known else False,  # our steps are absolute: an offset of 0
            output_uri=None if offline else True,
            auto_connect_arg_parser=False,
            auto_connect_streams=False,
            auto_connect_frameworks={"detect_repository": False, **dict.fromkeys(_FRAMEWORKS, False)},
            # The load of the whole machine: the work is not done in this process. Against steps, not seconds.
            auto_resource_monitoring={
                "report_mem_used_per_process": False,
                "report_start_sec": 3.0,
                "wait_for_first_iteration_to_start_sec": 1e9,
            },
        )
        self._logger: Any = self._task.get_logger()
        if not offline:
            if opening.get("parent"):
                self._task.set_parent(opening["parent"])
            temporary = self.id_file.with_suffix(".tmp")
            temporary.write_text(self._task.id, encoding="utf-8")
            temporary.replace(self.id_file)

    def known_id(self) -> str:
        """The run's task on the server, or an empty string."""
        return self.id_file.read_text(encoding="utf-8").strip() if self.id_file.is_file() else ""

    @property
    def offline_folder(self) -> Path:
        return Path(self._task.get_offline_mode_folder())

    def deliver(self, message: dict[str, Any]) -> None:
        kind, step = message["kind"], message.get("step")
        if "path" in message and not Path(message["path"]).is_file():
            return  # delivered, and removed, by the start that made it
        if kind == "config":
            self._task.set_parameters({f"config/{name}": value for name, value in message["values"].items()})
        elif kind == "scalars":
            for title, value in message["values"].items():
                self._logger.report_scalar(title, message["series"], value, step)
        elif kind == "values":
            for title, value in message["values"].items():
                self._logger.report_single_value(title, value)
        elif kind == "table":
            self._logger.report_table(message["title"], "all", iteration=0, table_plot=message["rows"])
        elif kind == "audio":
            title, _, series = message["name"].rpartition("/")
            self._logger.report_media(title, series, step, local_path=message["path"])
        elif kind == "image":
            self._logger.report_image(message["name"], "picture", step, local_path=message["path"])
        elif kind == "model":
            self._model = message  # registered once, at the end: the last one ships
        elif kind == "close":
            self._outcome = message["outcome"]

    def close(self) -> None:
        if not self.offline and self._task.get_status() != "in_progress":
            # Stopped in the browser, or by the process of a killed start after this one took the task up.
            self._task.mark_started(force=True)
        if self._model is not None:
            self._register(self._model)
        self._task.flush(wait_for_uploads=True)
        self._task.close()
        if self.offline:
            return
        if self._outcome == "failed":
            self._task.mark_failed(force=True, status_reason="training failed")
        elif self._outcome == "stopped":
            message = "the run ended without closing; it can be resumed"
            self._task.mark_stopped(force=True, status_message=message)

    def _register(self, model: dict[str, Any]) -> None:
        for title, value in model["metrics"].items():
            self._logger.report_single_value(title, value)
        if self.offline:  # an offline OutputModel cannot carry metadata
            path, metrics = model["path"], model["metrics"]
            self._task.upload_artifact("bundle", path, metadata=metrics, wait_on_upload=True)
            return
        from clearml import OutputModel

        # A start that was killed or stopped has left its model: the next one's takes its place.
        before = [each.model for each in getattr(self._task.data.models, "output", None) or []]
        output = OutputModel(
            task=self._task,
            name=model["name"],
            framework="PyTorch",
            base_model_id=before[-1] if before else None,
        )
        output.update_weights(weights_filename=model["path"], auto_delete_file=False, async_enable=False)
        values = {title: {"value": value, "type": "float"} for title, value in model["metrics"].items()}
        output.set_all_metadata(values)


_FRAMEWORKS = ("tensorboard", "tensorflow", "pytorch", "matplotlib", "joblib", "scikit", "hydra")


def knock() -> str:
    """Logs in to the configured server. Returns why that is impossible, or an empty string."""
    from clearml.backend_api import Session
    from clearml.config import config_obj

    host = str(Session.get_api_server_host()).rstrip("/")
    keys = [
        os.environ.get(f"CLEARML_API_{name.upper()}") or config_obj.get(f"api.credentials.{name}", "")
        for name in ("access_key", "secret_key")
    ]
    request = urllib.request.Request(f"{host}/auth.login")
    request.add_header("Authorization", "Basic " + base64.b64encode(":".join(keys).encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=KNOCK_S, context=_tls_context()):
            return ""
    except urllib.error.HTTPError as error:
        return f"{host} answers {error.code} {error.reason} to a login"
    except (OSError, ValueError) as error:
        return f"{host}: {getattr(error, 'reason', error)}"


def _tls_context() -> ssl.SSLContext:
    """Trusts whom the SDK trusts: anybody where ClearML is told so, else the authorities that `requests` is told of."""
    from clearml.backend_api.session.defs import ENV_HOST_VERIFY_CERT
    from clearml.config import config_obj

    verify = str(ENV_HOST_VERIFY_CERT.get(default=config_obj.get("api.verify_certificate", True)))
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None
    where = {"capath": bundle} if bundle and Path(bundle).is_dir() else {"cafile": bundle}
    context = ssl.create_default_context(**where)
    if verify.lower() in ("n", "no", "f", "false", "off", "0"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


if __name__ == "__main__":
    folder, done_fd, mode, *reason = sys.argv[1:]
    Delivery(Path(folder), int(done_fd), mode, *(reason or [""])).run()
    os._exit(0)  # nothing is left to do; ClearML's exit hooks could still wait for a server
