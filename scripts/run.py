"""`make run`: installs and starts the worker and the sidecar, and waits until a request works.

    python3 -m scripts.run [--model PATH] [--port 8080] [--worker-port 8000]

Needs only Python's standard library. It reports obstacles before it spends minutes on an installation. Both programs
end together: on Ctrl-C, on SIGTERM, and when one of them ends.
"""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts import children, fetch, setup, toolchain
from scripts.errors import Fail, run_main

HOST = "127.0.0.1"
LOOPBACK = {socket.AF_INET: HOST, socket.AF_INET6: "::1"}
"""Addresses that both programs listen on by default."""
POLL_S = 0.25
REQUEST_TIMEOUT_S = 120.0
REMIND_S = 30.0
DRAIN_S = 5  # for running requests to finish; short, because the user waits for it after Ctrl-C
GRACE_S = 30.0  # before both are killed; longer than DRAIN_S, which --worker-args and --sidecar-args may raise
NOT_YET = (502, 503, 504)
"""HTTP statuses of a gateway whose backend is not ready yet."""


@dataclass(frozen=True)
class Options:
    model: str
    port: int
    worker_port: int
    worker: list[str] | None  # command that replaces our worker, for tests
    sidecar: list[str] | None
    worker_args: list[str]
    sidecar_args: list[str]


def main() -> int:
    toolchain.require_python()
    children.stop_on_signals()
    options = _options()
    for name, variable, port in (("worker", "WORKER_PORT", options.worker_port), ("sidecar", "PORT", options.port)):
        _require_free(name, variable, port)
    if options.port == options.worker_port:
        raise Fail(f"the worker and the sidecar can't both use port {options.port}")
    if options.model and not Path(options.model).is_file():
        raise Fail(f"there is no model file {options.model}")

    if not (options.worker and options.sidecar):
        setup.ensure_venv("worker")
    model = options.model or str(fetch.ensure_model("smollm2"))
    python = str(setup.VENV_PYTHON)
    endpoint = f"{HOST}:{options.worker_port}"
    commands = {
        "worker": [
            *(options.worker or [python, "-m", "anyserve_worker", "--drain-timeout", str(DRAIN_S)]),
            *("--model", model, "--port", str(options.worker_port)),
            *options.worker_args,
        ],
        "sidecar": [
            *(options.sidecar or [python, "-m", "openai_server", "--drain-timeout", str(DRAIN_S)]),
            *("--anyserve-endpoint", endpoint, "--port", str(options.port)),
            *options.sidecar_args,
        ],
    }
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, command in commands.items():
            running[name] = children.start(command)
        _wait_until_answering(f"http://{HOST}:{options.port}", running)
        _print_ready(options, model)
        while True:
            _require_alive(running)
            time.sleep(POLL_S)
    except children.Stopped:
        print("\nstopping (Ctrl-C again: at once)", flush=True)
        return 0
    finally:
        children.end(running.values(), GRACE_S)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="make run", description="Runs the worker and the sidecar together.")
    parser.add_argument("--model", default="", help="a GGUF file (default: the embedded SmolLM2)")
    parser.add_argument("--port", type=int, default=8080, help="port of the sidecar (8080)")
    parser.add_argument("--worker-port", type=int, default=8000, help="port of the worker (8000)")
    parser.add_argument("--worker", type=shlex.split, help="command to run instead of our worker")
    parser.add_argument("--sidecar", type=shlex.split, help="command to run instead of our sidecar")
    parser.add_argument("--worker-args", type=shlex.split, default=[], help="more options for the worker")
    parser.add_argument("--sidecar-args", type=shlex.split, default=[], help="more options for the sidecar")
    return Options(**vars(parser.parse_args()))


def _require_free(name: str, variable: str, port: int) -> None:
    for family, host in LOOPBACK.items():
        try:
            with socket.socket(family) as probe:
                # As servers do: a port whose last connections are still closing counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", None) in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue  # This machine lacks the family, and the programs leave it out.
            reason = getattr(error, "strerror", None) or error
            other = port + 1 if 0 < port < 65535 else 8081
            raise Fail(
                f"port {port} is not available for the {name}: {reason} (choose another: make run {variable}={other})"
            ) from None


def _wait_until_answering(url: str, running: Mapping[str, subprocess.Popen[str]]) -> None:
    reminder = time.monotonic() + REMIND_S
    while (reason := _why_not_answering(url)) is not None:
        _require_alive(running)
        if time.monotonic() > reminder:
            reminder += REMIND_S
            print(f"waiting until a request works: {reason}", flush=True)
        time.sleep(POLL_S)


def _why_not_answering(url: str) -> str | None:
    """None if a request succeeds, else the reason. Raises Fail if waiting won't help."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    # Without the environment's proxy: the request stays on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=REQUEST_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        answer = error.read(500).decode(errors="replace").strip()
        if error.code in NOT_YET:
            return answer or str(error)
        raise Fail(f"both programs run, but a request failed with {error.code}: {answer}") from None
    except OSError as error:
        return str(error)


def _require_alive(running: Mapping[str, subprocess.Popen[str]]) -> None:
    for name, child in running.items():
        status = child.poll()
        if status is not None:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with exit code {status}"
            raise Fail(f"the {name} {how}")


def _print_ready(options: Options, model: str) -> None:
    url = f"http://{HOST}:{options.port}"
    body = '{"messages":[{"role":"user","content":"Why is the sky blue?"}],"max_tokens":100,"temperature":0}'
    print(
        f"""
Ready.
  model    {model}
  worker   {HOST}:{options.worker_port} (gRPC, KServe v2)
  sidecar  {url}/v1 (OpenAI's API)

Try it:
  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'

Ctrl-C ends both.
""",
        flush=True,
    )


if __name__ == "__main__":
    run_main(main)
