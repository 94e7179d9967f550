"""A headless Chromium, driven by its DevTools protocol over pipes: it needs the browser, and no package.

Everything that the pages request, print or do wrong is recorded.
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
    "--no-sandbox",  # root, in a container, has none
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
"""Chromium reads from descriptor 3 and writes to 4."""
TIMEOUT = 30.0
"""Seconds for an answer of the browser, and for what a page is waited for."""


class Missing(Exception):
    """No Chromium is installed."""


@dataclass
class Log:
    """What happened in a page."""

    requests: list[str] = field(default_factory=list)
    """URLs."""
    problems: list[str] = field(default_factory=list)
    """Errors and warnings on the console, uncaught exceptions, violations of the policy, requests that failed."""


class Tab:
    """A page of its own profile."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.log = Log()

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited. Raises AssertionError if it throws."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def wait(self, script: str) -> Any:
        """For an expression to have a value that is true, which is returned."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never true: {script}; {self.log.problems}; {self._text()}"
            time.sleep(0.05)
        return value

    def _text(self) -> str:
        return str(self.run("document.body.innerText"))[:2000]

    def click(self, selector: str) -> None:
        """Waits for the element first."""
        self.wait(f"!!document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def record(self, event: str, told: Any) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.log.requests.append(told["request"]["url"])
            case "Network.loadingFailed":
                self.log.problems.append(f"failed: {told['errorText']} {told.get('blockedReason', '')}")
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.log.problems.append(f"console: {told['args']}")
            case "Runtime.exceptionThrown":
                self.log.problems.append(f"exception: {told['exceptionDetails']}")
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.log.problems.append(f"log: {told['entry']['text']} {told['entry'].get('url', '')}")
            case "Audits.issueAdded" if told["issue"]["code"] == "ContentSecurityPolicyIssue":
                self.log.problems.append(f"policy: {told['issue']['details']}")


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

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        assert self._changed.wait_for(lambda: condition() or self._ended, TIMEOUT), f"no answer to {what}"
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
        self._commands.close()  # it ends when nobody can command it any more
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            self._events.close()


def executable() -> str:
    """Raises Missing."""
    named = os.environ.get("CHROMIUM")
    for name in [named] if named else NAMES:
        if path := shutil.which(name):
            return path
    raise Missing("Chromium isn't installed; Debian's package is `chromium`. CHROMIUM names another executable.")


@contextmanager
def running() -> Iterator[Browser]:
    """Raises Missing."""
    path = executable()
    for_it, commands = os.pipe()
    events, from_it = os.pipe()
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-c", ON_DESCRIPTORS, str(for_it), str(from_it)),
                *(path, *FLAGS, f"--user-data-dir={profile}"),
            ],
            pass_fds=(for_it, from_it),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(for_it)
        os.close(from_it)
        browser = Browser(process, os.fdopen(commands, "wb"), os.fdopen(events, "rb", buffering=0))
        try:
            yield browser
        finally:
            browser.close()
