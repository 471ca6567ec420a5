# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A headless Chromium for tests of pages, through DevTools' pipe: JSON messages that end in a NUL, on two file
descriptors. No package, no port, no WebSocket.

    with Browser() as browser:
        page = browser.open(path)
        page.evaluate("document.title")
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time
from typing import Any

TIMEOUT = 60.0


def find() -> str | None:
    """Chromium's path; HEED_CHROMIUM names another one."""
    names = (os.environ.get("HEED_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Browser:
    """A browser process with a profile of its own."""

    def __init__(self, *options: str) -> None:
        program = find()
        assert program is not None, "there is no Chromium"
        self._profile = tempfile.TemporaryDirectory(prefix="heed-chromium-", ignore_cleanup_errors=True)
        # Beyond 9, so that 3 and 4, which Chromium expects, are free to be assigned.
        to_read, self._write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        self._read, to_write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio",
                   "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", *options, "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command], pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.send("Browser.close")
            self._process.wait(10)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Runs a DevTools command; what happens meanwhile goes to `events`. RuntimeError if it fails."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self, method: str) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._read, 1 << 16) if ready else b""
            if not chunk:
                raise RuntimeError(f"{method}: no answer from the browser")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def open(self, path: pathlib.Path, width: int = 1280, height: int = 820, dark: bool = False) -> "Page":
        """A file's page, once it is loaded and drawn."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme",
                                                           "value": "dark" if dark else "light"}])
        page.send("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + TIMEOUT
        while page.evaluate("document.readyState + (window.heed && heed.scale !== 1 ? '' : ' not drawn')") != "complete":
            if time.monotonic() > deadline or page.errors():
                break
            time.sleep(0.05)
        page.settle()
        return page


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, after a promise is kept. RuntimeError if it throws."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "exception"))
        return answer["result"].get("value")

    def settle(self) -> None:
        """Waits until what changed is drawn."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def key(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: pathlib.Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _events(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self._browser.events
                if event.get("method") in methods and event.get("sessionId") == self._session]

    def errors(self) -> list[str]:
        """Exceptions, and what the console calls a warning or an error."""
        found = [str(event["exceptionDetails"]) for event in self._events("Runtime.exceptionThrown")]
        found += [event["entry"]["text"] for event in self._events("Log.entryAdded")
                  if event["entry"]["level"] in ("warning", "error")]
        return found + [str(event["args"]) for event in self._events("Runtime.consoleAPICalled")
                        if event["type"] in ("warning", "error", "assert")]

    def requests(self) -> list[str]:
        """What was asked for, over the network or not."""
        return [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]
