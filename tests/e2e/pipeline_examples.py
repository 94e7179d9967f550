"""Starts the folders of pipelines in examples/ as a user does, on free ports."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping

from scripts.ports import free_port
from tests.e2e.servers import Process
from tests.packaging.commands import ROOT

EXAMPLES = ROOT / "examples"
START_TIMEOUT = 600.0
"""Seconds; the first start installs Haystack."""


@contextlib.contextmanager
def started(*command: str, env: Mapping[str, str] | None = None) -> Iterator[tuple[Process, str]]:
    """Yields the program when it has printed that it is ready, and the sidecar's base URL, without /v1. The options of
    `make run` for free ports, and for both programs in this environment, are added to the command."""
    port = free_port()
    options = [f"--{name}={shlex.quote(sys.executable)} -m {module}" for name, module in PROGRAMS.items()]
    process = Process(
        sys.executable,
        *command,
        *options,
        f"--port={port}",
        f"--worker-port={free_port()}",
        "--sidecar-args=--store sqlite://",
        env={**os.environ, **(env or {})},
    )
    try:
        process.wait_for(r"Ctrl-C ends both", START_TIMEOUT)
        yield process, f"http://127.0.0.1:{port}"
    except BaseException:
        print(process.output)
        raise
    finally:
        # The pair ends with its parent.
        process.end(signal.SIGTERM)


PROGRAMS = {"worker": "anyserve_worker", "sidecar": "openai_server"}
