"""The Codex CLI in the user's cache, and a run of it that reaches nothing but the server under test."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import npm
from scripts.errors import Fail
from scripts.locks import locked, shared_cache

PACKAGE = "@openai/codex"
VERSION = "0.171.0-linux-x64"
INTEGRITY = "sha512-l66NZkQgdk2C3pbcfULDz42yEUB581MVA6I+Y43Wp4OIqEy73HCdmZ0GTjeAHY2ycuH4N00d9VsLrwT1jxshTw=="
PROGRAM = Path("package", "vendor", "x86_64-unknown-linux-musl", "bin", "codex")
TIMEOUT = 300.0
"""Seconds; a prompt of Codex has 6000 tokens and more."""
DEAD_PROXY = "http://127.0.0.1:9"
"""Nothing listens there, so that requests to any other host fail."""
CONFIG = """
model_provider = "sidecar"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.sidecar]
name = "sidecar"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "SIDECAR_KEY"
"""


def ensure_codex() -> Path:
    """Returns the program, and fetches its package from npm if it isn't in the cache (172 MB). Raises Fail."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Fail(f"{PACKAGE} {VERSION} runs on Linux on x86_64 only")
    unpacked = shared_cache("codex") / VERSION
    with locked(unpacked.parent):
        if not unpacked.is_dir():
            print(f"downloading {PACKAGE} {VERSION} (172 MB)", flush=True)
            with tempfile.TemporaryDirectory(dir=unpacked.parent) as folder:
                with tarfile.open(npm.fetch(PACKAGE, VERSION, INTEGRITY, Path(folder))) as archive:
                    archive.extractall(Path(folder, "unpacked"), filter="data")
                Path(folder, "unpacked").rename(unpacked)
    return unpacked / PROGRAM


@dataclass
class Run:
    """A finished run of `codex exec`."""

    status: int
    events: list[dict[str, Any]]
    """The lines that it printed with --json."""
    output: str
    """Everything that it printed."""

    def items(self, kind: str) -> list[dict[str, Any]]:
        """Returns the completed items of a kind, such as agent_message or command_execution."""
        completed = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item for item in completed if item["type"] == kind]

    @property
    def texts(self) -> list[str]:
        return [item["text"] for item in self.items("agent_message")]

    @property
    def usage(self) -> dict[str, int] | None:
        """Token counts of the turn, or None if the turn failed."""
        completed = [event["usage"] for event in self.events if event["type"] == "turn.completed"]
        return completed[-1] if completed else None


class Codex:
    """Codex with a home folder of its own and an empty environment."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.work = home / "work"
        self.work.mkdir()
        (home / "config.toml").write_text(CONFIG.format(url=url))
        self._program = ensure_codex()

    def start(self, model: str, prompt: str, *options: str, resume: bool = False) -> subprocess.Popen[str]:
        """Starts a turn; with `resume`, one more of the last session."""
        session = ["resume", "--last"] if resume else []
        fixed = ["exec", "--skip-git-repo-check", "--json", "--model", model, *options]
        command = [str(self._program), *fixed, *session, prompt]
        env = {
            "HOME": str(self.home),
            "CODEX_HOME": str(self.home),
            "PATH": os.defpath,
            "SIDECAR_KEY": "none",
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), DEAD_PROXY),
            "NO_PROXY": "127.0.0.1",
        }
        return subprocess.Popen(
            command,
            cwd=self.work,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, model: str, prompt: str, *options: str, resume: bool = False) -> Run:
        return finish(self.start(model, prompt, *options, resume=resume))


def finish(process: subprocess.Popen[str]) -> Run:
    """Waits for the end, at most TIMEOUT seconds."""
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return Run(process.returncode, events, output)


@contextmanager
def codex(url: str) -> Iterator[Codex]:
    home = Path(tempfile.mkdtemp(prefix="codex-"))
    try:
        yield Codex(home, url)
    finally:
        shutil.rmtree(home, ignore_errors=True)
