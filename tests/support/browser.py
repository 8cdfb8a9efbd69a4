"""A real Chromium without a window, told what to do through the DevTools protocol on two pipes."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

#: Two pipes that Chromium expects as descriptors 3 and 4; ours are higher, so none is overwritten.
_LAUNCH = 'exec "$@" 3<&"$YAOKI_TO_BROWSER" 4>&"$YAOKI_FROM_BROWSER"'
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--hide-scrollbars", "--remote-debugging-pipe", "about:blank"),
)


def find_browser() -> str | None:
    """Where Chromium is, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def require_browser() -> None:
    """Skip a test without Chromium, unless YAOKI_REQUIRE_CHROMIUM=1 asks that it fails."""
    if find_browser() is None:
        if os.environ.get("YAOKI_REQUIRE_CHROMIUM") == "1":
            pytest.fail("YAOKI_REQUIRE_CHROMIUM=1, and chromium is not installed", pytrace=False)
        pytest.skip("chromium is not installed")


class Browser:
    """One page in a browser of its own; a context manager that ends it.

    Args:
        profile: A directory that is its alone.
    """

    def __init__(self, profile: Path) -> None:
        program = find_browser()
        assert program is not None, "chromium is not installed"
        to_read, self._to = _pipe()
        self._from, to_write = _pipe()
        told = {"YAOKI_TO_BROWSER": str(to_read), "YAOKI_FROM_BROWSER": str(to_write)}
        self._process = subprocess.Popen(
            ["bash", "-c", _LAUNCH, "bash", program, f"--user-data-dir={profile}", *_OPTIONS],
            env=os.environ | told | {"HOME": str(profile)},
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._calls, self._unread = 0, b""
        self._session: str | None = None
        #: What the page complained of since it was opened.
        self.complaints: list[str] = []
        #: What it asked for: addresses.
        self.requests: list[str] = []
        self._events: Counter[str] = Counter()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._session = None
        os.write(self._to, b'{"id":0,"method":"Browser.close"}\0')
        self._process.wait(timeout=60)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._calls += 1
        message: dict[str, Any] = {"id": self._calls, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(
        self,
        page: Path,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        script: bool = True,
    ) -> None:
        """Open a file and wait until it is loaded.

        Args:
            page: The file.
            width: Of the window, in pixels of the page.
            height: Likewise.
            dark: Whether the reader prefers dark pages.
            script: Whether the browser runs scripts.
        """
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 600)
        self.complaints, self.requests, self._events = [], [], Counter()
        self.call("Page.navigate", url=page.absolute().as_uri())
        self.wait_for("Page.loadEventFired")

    def wait_for(self, method: str, times: int = 1) -> None:
        """Wait until an event has come so often since the page was opened."""
        while self._events[method] < times:
            self._read()

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go.

        Args:
            key: Its name, such as ``Tab``.
            code: Its virtual code.
            text: What it types, if anything.
        """
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type words where the focus is."""
        self.call("Input.insertText", text=text)

    def screenshot(self) -> bytes:
        """What the window shows, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            more = os.read(self._from, 1 << 16)
            assert more, f"chromium has ended with {self._process.wait()}"
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._note(message["method"], message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        self._events[method] += 1
        if method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(told["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(told["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are far above those that Chromium expects."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 50) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]
