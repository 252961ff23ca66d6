"""A small ClearML server on loopback: it speaks as much of the API as the SDK asks for and keeps what arrives.

    with ClearMLServer() as server:
        run(..., env=server.environment)
        assert server.only_task["status"] == "completed"

API, files and web server are one. `failing = 500` answers every call of the API, or `failing_call` alone, with that
status (`refused` keeps the bodies), `hanging = True` takes requests and never answers, `stop()` closes the port.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import socket
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import jwt

API_VERSION = "2.31"


class ClearMLServer:
    """tasks, models: by id, as a real server would show them; events: all, in order; files: body by path."""

    def __init__(self, port: int = 0) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.statuses: list[str] = []
        self.calls: list[str] = []
        self.unknown: list[str] = []
        self.failing = 0
        self.failing_call = ""
        self.refused: list[bytes] = []
        self.hanging = False
        self.released = threading.Event()
        self.connections: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler_for(self))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.address = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        hosts = {f"CLEARML_{kind}_HOST": self.address for kind in ("API", "WEB", "FILES")}
        return {**hosts, "CLEARML_API_ACCESS_KEY": "key", "CLEARML_API_SECRET_KEY": "secret"}

    @property
    def only_task(self) -> dict[str, Any]:
        (task,) = self.tasks.values()
        return task

    def curve(self, title: str, series: str) -> dict[int, float]:
        """{iteration: value} of the scalars that arrived for a plot's series."""
        return {
            event["iter"]: event["value"]
            for event in self.events
            if event["type"] == "training_stats_scalar"
            and (event["metric"], event["variant"]) == (title, series)
        }

    def media(self, title: str, series: str) -> dict[int, bytes]:
        """{iteration: file} of the sounds or pictures that arrived."""
        return {
            event["iter"]: self.files[unquote(event["url"].removeprefix(self.address))]
            for event in self.events
            if event["type"] == "training_debug_image"
            and (event["metric"], event["variant"]) == (title, series)
        }

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):  # clients keep them open, and would still be answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> ClearMLServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # One method per call of the API, `service.action` as service_action; what it returns is the reply's data.

    def auth_login(self, body: dict[str, Any]) -> dict[str, Any]:
        claims = {"api_version": API_VERSION, "exp": time.time() + 86400, "feature_set": "basic"}
        return {"token": jwt.encode(claims, "a secret of at least thirty-two bytes", algorithm="HS256")}

    def projects_get_all(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"projects": []}

    def projects_get_all_ex(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"projects": []}

    def projects_get_by_id(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": body["project"], "name": "Wave Wizard"}}

    def projects_create(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"id": uuid.uuid4().hex}

    def tasks_create(self, body: dict[str, Any]) -> dict[str, Any]:
        task_id = uuid.uuid4().hex
        defaults = {"hyperparams": {}, "execution": {"artifacts": []}, "output": {}, "models": {}, "tags": []}
        self.tasks[task_id] = {
            "id": task_id, "user": "tests", "status": "created", "last_iteration": 0, "system_tags": [],
            **defaults, **{name: value for name, value in body.items() if value is not None},
        }  # fmt: skip
        return {"id": task_id}

    def tasks_get_by_id(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"task": self.tasks[body["task"]]}

    def tasks_get_all(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"tasks": [task for name, task in self.tasks.items() if name in (body.get("id") or [])]}

    def tasks_edit(self, body: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks[body["task"]]
        for name, value in body.items():
            if name == "execution" and value:
                task["execution"] = {**task["execution"], **value}
            elif name not in ("task", "force"):
                task[name] = value
        return {"updated": 1, "fields": {}}

    def tasks_update(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.tasks_edit(body)

    def tasks_edit_hyper_params(self, body: dict[str, Any]) -> dict[str, Any]:
        sections = self.tasks[body["task"]]["hyperparams"]
        for parameter in body["hyperparams"]:
            sections.setdefault(parameter["section"], {})[parameter["name"]] = parameter
        return {"updated": 1}

    def tasks_add_or_update_artifacts(self, body: dict[str, Any]) -> dict[str, Any]:
        self.tasks[body["task"]]["execution"]["artifacts"] += body["artifacts"]
        return {"updated": 1}

    def tasks_add_or_update_model(self, body: dict[str, Any]) -> dict[str, Any]:
        models = self.tasks[body["task"]]["models"].setdefault(body["type"], [])
        models.append({"name": body["name"], "model": body["model"]})
        return {"updated": 1}

    def tasks_ping(self, body: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _status(self, body: dict[str, Any], status: str) -> dict[str, Any]:
        """As a real server: a task that has ended goes to another state only by force."""
        task = self.tasks[body["task"]]
        if task["status"] not in ("created", "in_progress") and not body.get("force"):
            raise PermissionError(f"invalid status change {task['status']} -> {status}")
        task["status"] = status
        self.statuses.append(status)
        return {"updated": 1, "fields": {"status": status}}

    def tasks_started(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._status(body, "in_progress")

    def tasks_completed(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._status(body, "completed")

    def tasks_stopped(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._status(body, "stopped")

    def tasks_failed(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._status(body, "failed")

    def models_create(self, body: dict[str, Any]) -> dict[str, Any]:
        model_id = uuid.uuid4().hex
        self.models[model_id] = {"id": model_id, "metadata": {}, "tags": [], **body}
        return {"id": model_id, "created": True}

    def models_get_all(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"models": [model for name, model in self.models.items() if name in (body.get("id") or [])]}

    def models_get_by_id(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.models[body["model"]]}

    def models_edit(self, body: dict[str, Any]) -> dict[str, Any]:
        self.models[body["model"]] |= {name: value for name, value in body.items() if name != "model"}
        return {"updated": 1, "fields": {}}

    def models_add_or_update_metadata(self, body: dict[str, Any]) -> dict[str, Any]:
        self.models[body["model"]]["metadata"] |= {entry["key"]: entry for entry in body["metadata"]}
        return {"updated": 1}

    def events_add_batch(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        self.events += lines
        for event in lines:
            if event["task"] in self.tasks:
                task = self.tasks[event["task"]]
                task["last_iteration"] = max(task["last_iteration"], event.get("iter") or 0)
        return {"added": len(lines), "errors": 0, "errors_info": {}}


def _handler_for(server: ClearMLServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server.connections.add(self.connection)

        def finish(self) -> None:
            server.connections.discard(self.connection)
            with contextlib.suppress(OSError):
                super().finish()

        def do_POST(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if server.hanging:
                server.released.wait(60)
                self.close_connection = True
                return
            try:
                self._reply(*self._result(body))
            except OSError:  # the client was killed
                self.close_connection = True

        def _result(self, body: bytes) -> tuple[int, Any]:
            name = self.path.partition("?")[0].rpartition("/")[2]
            if "multipart" in (self.headers.get("Content-Type") or ""):
                return 200, _keep_files(server, self.headers["Content-Type"], body)
            server.calls.append(name)
            if server.failing and server.failing_call in ("", name):
                server.refused.append(body)
                return server.failing, _envelope(name, server.failing, {})
            method = getattr(server, name.replace(".", "_"), None) if "." in name else None
            if method is None:
                server.unknown.append(f"{self.command} {self.path}")
                return 404, _envelope(name, 404, {})
            lines = [json.loads(line) for line in body.decode().splitlines() if line.strip()]
            try:
                data = method(lines if name == "events.add_batch" else (lines or [{}])[0])
            except (KeyError, PermissionError) as error:
                return 400, _envelope(name, 400, {}, str(error))
            return 200, _envelope(name, 200, data)

        def _reply(self, status: int, content: Any) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _envelope(name: str, code: int, data: dict[str, Any], message: str = "OK") -> dict[str, Any]:
    meta = {
        "id": uuid.uuid4().hex, "trx": uuid.uuid4().hex,
        "endpoint": {"name": name, "requested_version": API_VERSION, "actual_version": API_VERSION},
        "result_code": code, "result_subcode": 0, "result_msg": message, "error_stack": "", "error_data": {},
    }  # fmt: skip
    return {"meta": meta, "data": data}


def _keep_files(server: ClearMLServer, content_type: str, body: bytes) -> list[str]:
    """A multipart form: each part's name is the path that the file is to have."""
    message = email.message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP
    )
    kept = []
    for part in message.iter_parts():  # type: ignore[attr-defined]
        path = "/" + str(part.get_param("name", header="content-disposition")).lstrip("/")
        server.files[unquote(path)] = part.get_payload(decode=True)
        kept.append(path)
    return kept
