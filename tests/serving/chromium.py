"""Drives a headless Chromium over its DevTools protocol: enough to use a page as a person does."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

BINARY = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
_DEADLINE_S = 60


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`; it and all its processes end with the block."""
    assert BINARY is not None
    process = subprocess.Popen(
        [
            BINARY,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port, path = _endpoint(process, folder / "DevToolsActivePort")
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as socket:
            browser = Browser(socket)
            yield browser
            browser.close()
            process.wait(timeout=_DEADLINE_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=_DEADLINE_S)


def _endpoint(process: subprocess.Popen, file: Path) -> list[str]:
    """Port and path that the browser writes once it listens."""
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the browser ended with status {process.returncode}")
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            return lines
        time.sleep(0.05)
    raise TimeoutError("the browser did not start")


class Browser:
    """One page. `problems` collects its exceptions, errors and refusals by its policy;
    `requests` the addresses that it asked for."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number, self._session = socket, 0, None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        """Ends the browser in order, so that none of its processes is left to others."""
        self._session = None
        with contextlib.suppress(ConnectionClosed):
            self._call("Browser.close")

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.wait(f"location.href !== 'about:blank' && {_READY}")

    def size(self, width: int, height: int, *, touch: bool = False, dark: bool = False) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        self._call("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def read(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        return self.read(f"document.querySelector({json.dumps(selector)}).innerText")

    def wait(self, condition: str) -> None:
        """Until the JavaScript expression holds, through changes of page."""
        deadline = time.monotonic() + _DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                if self.read(f"Boolean({condition})"):
                    return
            time.sleep(0.02)
        raise TimeoutError(f"{condition}: never true; the page shows {self.read(_BODY)!r}")

    def wait_for_path(self, end: str) -> None:
        self.wait(f"location.pathname.endsWith({json.dumps(end)}) && {_READY}")

    def click(self, selector: str) -> None:
        """Presses the mouse where the element is; it fails if something else lies over it."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.read(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        x, y = self.read(
            f"(() => {{ const b = {element}.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        hit = f"document.elementFromPoint({x}, {y})"
        if not self.read(f"{element}.contains({hit})"):
            raise RuntimeError(f"{selector} is covered by {self.read(f'{hit}.outerHTML')}")
        where = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self._call("Input.dispatchMouseEvent", type="mousePressed", **where)
        self._call("Input.dispatchMouseEvent", type="mouseReleased", **where)

    def press(self, key: str) -> None:
        """A key: a character, or `Enter`, `Tab`, `Escape`."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27}
        code = codes[key] if key in codes else ord(key.upper()) if key.isalnum() else 0
        name = f"Digit{key}" if key.isdigit() else f"Key{key.upper()}" if len(key) == 1 else key
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        about = {"key": key, "code": name, "windowsVirtualKeyCode": code}
        down = {"type": "keyDown" if text else "rawKeyDown"} | ({"text": text} if text else {})
        self._call("Input.dispatchKeyEvent", **about, **down)
        self._call("Input.dispatchKeyEvent", **about, type="keyUp")

    def type(self, text: str) -> None:
        for character in text:
            self.press(character)

    def screenshot(self, path: Path) -> None:
        """The whole page, not only what fits the window."""
        height = self.read("document.documentElement.scrollHeight")
        width = self.read("document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=_DEADLINE_S))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


_READY = "document.readyState === 'complete'"
_BODY = "document.body && document.body.innerText"
