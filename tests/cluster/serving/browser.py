"""A headless Chromium that a test drives as a person would: real clicks and keys, over the DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.cluster.chromium import chromium

FAKE_MICROPHONE = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
KEYS = {
    "Tab": 9,
    "Enter": 13,
    " ": 32,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Escape": 27,
}


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 30) -> Any:
    """What `condition` returns once that is true; fails naming `what` if it never is."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)
    return value


class Page:
    """A tab. `requests`: addresses it asked for; `complaints`: what it wrote to its console or failed with."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol; events that come before its answer are noted."""
        call_id = next(self._ids)
        self._socket.send(json.dumps({"id": call_id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=240))
            if message.get("id") == call_id:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message["method"], message["params"])

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression or of the promise that it is."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, json.dumps(answer["exceptionDetails"])[:800]
        return answer["result"].get("value")

    def wait(self, script: str, timeout_s: float = 30) -> Any:
        return wait_for(lambda: self.run(script), script, timeout_s)

    def wait_for_state(self, state: str) -> None:
        """Waits for a state of the page; says what the page says if another one comes instead."""
        seen = "[document.body.dataset.state, status.textContent, problem.textContent]"
        script = seen.replace("status", "document.getElementById('status')")
        wait_for(lambda: self.run(script)[0] in {state, "error"}, f"state {state}")
        now = self.run(script)
        assert now[0] == state, now

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && 'state' in document.body.dataset")

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element, which must be visible."""
        self.wait(f"document.querySelector({selector!r})?.checkVisibility()")
        place = f"""(() => {{ const e = document.querySelector({selector!r});
            e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect();
            return [b.x + b.width / 2, b.y + b.height / 2]; }})()"""
        x, y = self.run(place)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        text = {"Enter": "\r", " ": " "}.get(key, "")
        codes = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": KEYS.get(key) or ord(key.upper()),
        }
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **codes)
        self.call("Input.dispatchKeyEvent", type="keyUp", **codes)

    def tab_to(self, element_id: str) -> None:
        """Presses Tab until an element has the focus, which must be seen."""
        for _ in range(30):
            if self.run("document.activeElement.id") == element_id:
                assert self.run("document.activeElement.matches(':focus-visible')")
                return
            self.press("Tab")
        raise AssertionError(f"Tab never comes to {element_id}")

    def choose_file(self, selector: str, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop_file(self, path: Path) -> None:
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=200, y=200, data=data)

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Sets the size of the window and the colour scheme that the person prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> Path:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))
        return path


@contextlib.contextmanager
def browser(folder: Path, *options: str) -> Iterator[Page]:
    """A tab of a new browser whose profile, log and downloads lie in a folder."""
    profile, downloads = folder / "profile", folder / "downloads"
    downloads.mkdir(parents=True)
    command = chromium(profile, "--remote-debugging-port=0", *FAKE_MICROPHONE, *options, "about:blank")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        port_file = profile / "DevToolsActivePort"
        port = wait_for(
            lambda: port_file.exists() and port_file.read_text().split("\n")[0], "the browser to start"
        )
        tabs = httpx.get(f"http://127.0.0.1:{port}/json").json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        with connect(address, max_size=None, origin=None) as socket:
            page = Page(socket)
            page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
            yield page
    finally:
        process.terminate()
        process.wait(30)
