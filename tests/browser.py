"""A real browser for tests of pages: headless Chromium over its debugging pipe, no package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
# Chromium speaks on descriptors 3 and 4 with --remote-debugging-pipe.
_EXEC = (
    "import fcntl, os, sys\n"
    "reads, writes = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]\n"
    "os.dup2(reads, 3); os.dup2(writes, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)


class Tab:
    """One tab; `call` is a method of the DevTools protocol."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads = os.fdopen(reads, "rb", buffering=0)
        self._writes = os.fdopen(writes, "wb", buffering=0)
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")
        self.errors: list[str] = []
        self.call("Runtime.enable")
        self.requests: list[str] = []
        self.call("Network.enable")

    def quit(self) -> None:
        """End the browser."""
        self._session = None
        self.call("Browser.close")
        self._reads.close()
        self._writes.close()

    def call(self, method: str, **params: Any) -> Any:
        """The result of one command; raises `RuntimeError` with what the browser says."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._writes.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            more = self._reads.read(1 << 16)
            if not more:
                raise RuntimeError("the browser is gone")
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(answer["params"]["exceptionDetails"]))
        elif answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(answer["params"]["request"]["url"])
        return answer

    def open(self, url: str) -> None:
        """Go to a page; returns when it is loaded."""
        self.call("Page.navigate", url="about:blank")
        self.requests.clear()
        self.call("Page.navigate", url=url)
        while self.run("document.readyState + location.href") != f"complete{url}":
            pass

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    def becomes(self, condition: str) -> bool:
        """Whether an expression comes to be true within ten seconds."""
        return bool(
            self.run(
                "new Promise(done => { const end = performance.now() + 10000; const look = () => "
                f"({condition}) ? done(true) : performance.now() > end ? done(false) : "
                "setTimeout(look); look(); })"
            )
        )

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """The window, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def key(self, name: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name,
                windowsVirtualKeyCode=code, **text,
            )  # fmt: skip

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """What printing gives."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF")["data"]))


@contextmanager
def browser() -> Iterator[Tab]:
    """A browser with a profile of its own, which goes with it."""
    assert CHROMIUM
    ours_reads, theirs_writes = os.pipe()
    theirs_reads, ours_writes = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            sys.executable, "-c", _EXEC, str(theirs_reads), str(theirs_writes), CHROMIUM,
            *_SWITCHES, f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, pass_fds=(theirs_reads, theirs_writes), stderr=subprocess.DEVNULL
        )
        os.close(theirs_reads)
        os.close(theirs_writes)
        try:
            tab = Tab(ours_reads, ours_writes)
            yield tab
            tab.quit()
        finally:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
