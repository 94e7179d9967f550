"""Drives a headless Chromium with its DevTools protocol over pipes; needs the browser, and no package.

Records every request, console message and error of the pages.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # containers run as root, which has no sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ON_DESCRIPTORS = """
import fcntl, os, sys
commands, events = (fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 10) for number in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(events, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and writes events to 4."""
TIMEOUT = 30.0
"""Seconds to wait for a reply of the browser or for a condition in a page."""


class Missing(Exception):
    """No Chromium is installed."""


@dataclass
class Log:
    """Requests and problems of a page."""

    requests: list[str] = field(default_factory=list)
    """URLs."""
    problems: list[str] = field(default_factory=list)
    """Errors and warnings on the console, uncaught exceptions, violations of the policy, requests that failed."""


class Tab:
    """A page with a profile of its own."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.log = Log()

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Evaluates an expression, awaits a promise, and returns the value. Raises AssertionError if the script
        throws."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def wait(self, script: str) -> Any:
        """Waits until the expression is true and returns its value."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never true: {script}; {self.log.problems}; {self._text()}"
            time.sleep(0.05)
        return value

    def _text(self) -> str:
        return str(self.run("document.body.innerText"))[:2000]

    def click(self, selector: str) -> None:
        """Clicks the element, once it exists."""
        self.wait(f"!!document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def record(self, event: str, details: Any) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.log.requests.append(details["request"]["url"])
            case "Network.loadingFailed":
                self.log.problems.append(f"failed: {details['errorText']} {details.get('blockedReason', '')}")
            case "Runtime.consoleAPICalled" if details["type"] in ("error", "warning", "assert"):
                self.log.problems.append(f"console: {details['args']}")
            case "Runtime.exceptionThrown":
                self.log.problems.append(f"exception: {details['exceptionDetails']}")
            case "Log.entryAdded" if details["entry"]["level"] in ("error", "warning"):
                self.log.problems.append(f"log: {details['entry']['text']} {details['entry'].get('url', '')}")
            case "Audits.issueAdded" if details["issue"]["code"] == "ContentSecurityPolicyIssue":
                self.log.problems.append(f"policy: {details['issue']['details']}")


class Browser:
    def __init__(self, process: subprocess.Popen[bytes], commands: IO[bytes], events: IO[bytes]) -> None:
        self._process = process
        self._commands = commands
        self._events = events
        self._next = 0
        self._replies: dict[int, Any] = {}
        self._tabs: dict[str, Tab] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def call(self, method: str, session: str = "", **parameters: Any) -> Any:
        with self._changed:
            self._next += 1
            number = self._next
            command = {"id": number, "method": method, "params": parameters}
            if session:
                command["sessionId"] = session
            self._commands.write(json.dumps(command).encode() + b"\0")
            self._commands.flush()
            self._wait(lambda: number in self._replies, method)
            reply = self._replies.pop(number)
        assert "error" not in reply, (method, reply)
        return reply["result"]

    def _wait(self, condition: Callable[[], bool], method: str) -> None:
        assert self._changed.wait_for(lambda: condition() or self._ended, TIMEOUT), f"no answer to {method}"
        assert not self._ended, "the browser has ended"

    def _read(self) -> None:
        pending = b""
        while part := os.read(self._events.fileno(), 1 << 16):
            *messages, pending = (pending + part).split(b"\0")
            with self._changed:
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._replies[message["id"]] = message
                    elif tab := self._tabs.get(message.get("sessionId", "")):
                        tab.record(message["method"], message["params"])
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def tab(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> Tab:
        profile = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=profile)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Network", "Runtime", "Log", "Audits"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        return tab

    def close(self) -> None:
        self._commands.close()  # Chromium ends when its command pipe is closed
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            self._events.close()


def executable() -> str:
    """Returns Chromium's path. Raises Missing."""
    named = os.environ.get("CHROMIUM")
    for name in [named] if named else NAMES:
        if path := shutil.which(name):
            return path
    raise Missing("Chromium isn't installed; Debian's package is `chromium`. CHROMIUM names another executable.")


@contextmanager
def running() -> Iterator[Browser]:
    """Starts Chromium, and ends it on exit. Raises Missing."""
    path = executable()
    browser_input, commands = os.pipe()
    events, browser_output = os.pipe()
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-c", ON_DESCRIPTORS, str(browser_input), str(browser_output)),
                *(path, *FLAGS, f"--user-data-dir={profile}"),
            ],
            pass_fds=(browser_input, browser_output),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_input)
        os.close(browser_output)
        browser = Browser(process, os.fdopen(commands, "wb"), os.fdopen(events, "rb", buffering=0))
        try:
            yield browser
        finally:
            browser.close()
