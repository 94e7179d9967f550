"""`make run`: installs and starts the worker and the sidecar, and waits until a request works.

    python3 -m scripts.run [--model PATH] [--pipelines FOLDER] [--port 8080] [--worker-port 8000]

Needs only Python's standard library. It reports obstacles before it spends minutes on an installation. Both programs
end together: on Ctrl-C, on SIGTERM, and when one of them ends.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from scripts import children, fetch, pipeline_packages, setup, toolchain
from scripts.errors import Fail, run_main

HOST = "127.0.0.1"
LOOPBACK = {socket.AF_INET: HOST, socket.AF_INET6: "::1"}
"""Addresses that both programs listen on by default."""
POLL_S = 0.25
MAX_PAUSE_S = 2.0
"""Longest pause between two attempts of a request; each writes a line into the sidecar's log."""
PAUSE_GROWTH = 1.2
REQUEST_TIMEOUT_S = 120.0
REMIND_S = 30.0
DRAIN_S = 5  # for running requests to finish; short, because the user waits for it after Ctrl-C
GRACE_S = 30.0  # before both are killed; longer than DRAIN_S, which --worker-args and --sidecar-args may raise
STORE_VARIABLE = "OPENAI_SERVER_STORE"
QUESTION = '{"messages":[{"role":"user","content":"Why is the sky blue?"}],"max_tokens":100,"temperature":0}'
PIPELINE_QUESTION = '"messages":[{"role":"user","content":"Hello!"}]}'
RESPONSE = '{"input":"Name three planets.","max_output_tokens":100}'
FOLLOW_UP = '{"input":"Which is the largest?","max_output_tokens":100,"previous_response_id":"resp_…"}'
NOT_YET = (502, 503, 504)
"""HTTP statuses of a gateway whose backend is not ready yet."""
NO_MODEL = "none"
"""Value of --model with which only pipelines are served."""


@dataclass(frozen=True)
class Options:
    model: str
    pipelines: str
    """A folder of pipelines; empty: none."""
    pipeline_python: str
    """The Python of the pipelines; empty: that of an environment with the packages that they list, or our own."""
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
    if options.model not in ("", NO_MODEL) and not Path(options.model).is_file():
        raise Fail(f"there is no model file {options.model}")
    if options.pipelines and not Path(options.pipelines).is_dir():
        raise Fail(f"there is no folder {options.pipelines}")
    if options.model == NO_MODEL and not options.pipelines:
        raise Fail("nothing to serve: MODEL=none needs PIPELINES=FOLDER")

    if not (options.worker and options.sidecar):
        setup.ensure_venv("run")
    model = "" if options.model == NO_MODEL else options.model or str(fetch.ensure_model("smollm2"))
    python = str(setup.VENV_PYTHON)
    endpoint = f"{HOST}:{options.worker_port}"
    store = _store(options)
    commands = {
        "worker": [
            *(options.worker or [python, "-m", "anyserve_worker", "--drain-timeout", str(DRAIN_S)]),
            *(("--model", model) if model else ()),
            *_pipeline_options(options),
            *("--port", str(options.worker_port)),
            *options.worker_args,
        ],
        "sidecar": [
            *(options.sidecar or [python, "-m", "openai_server", "--drain-timeout", str(DRAIN_S)]),
            *("--anyserve-endpoint", endpoint, "--port", str(options.port)),
            *(("--store", f"sqlite:///{quote(str(store))}") if store else ()),
            *options.sidecar_args,
        ],
    }
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, command in commands.items():
            running[name] = children.start(command, env=_environment(options))
        names = _wait_until_answering(options, model, running)
        _print_ready(options, model, names, store)
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
    parser.add_argument(
        "--model", default="", help=f"a GGUF file (default: the embedded SmolLM2), or {NO_MODEL} with --pipelines"
    )
    parser.add_argument("--pipelines", default="", help="a folder of pipelines to serve as well")
    parser.add_argument(
        "--pipeline-python", default="", help="Python of the pipelines (default: with what requirements.txt lists)"
    )
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


def _pipeline_options(options: Options) -> list[str]:
    if not options.pipelines:
        return []
    python = options.pipeline_python or pipeline_packages.ensure(Path(options.pipelines))
    return ["--pipelines", options.pipelines, *(("--pipeline-python", str(python)) if python else ())]


def _environment(options: Options) -> dict[str, str]:
    """The environment of both programs: OpenAI's clients in pipelines reach this sidecar, unless the user chose another
    server."""
    own = {"OPENAI_BASE_URL": f"http://{HOST}:{options.port}/v1", "OPENAI_API_KEY": "none"}
    return {**(own if options.pipelines and "OPENAI_BASE_URL" not in os.environ else {}), **os.environ}


def _wait_until_answering(options: Options, model: str, running: Mapping[str, subprocess.Popen[str]]) -> list[str]:
    """Returns the names of the pipelines' models, after a request to the first of them has worked; without pipelines,
    one to the default model. Raises Fail if waiting won't help."""
    url = f"http://{HOST}:{options.port}"
    reminder = time.monotonic() + REMIND_S
    pause = POLL_S
    while True:
        try:
            names = _pipeline_models(url, model) if options.pipelines else []
            _request(f"{url}/v1/chat/completions", _greeting(names))
            return names
        except NotYet as reason:
            _require_alive(running)
            if time.monotonic() > reminder:
                reminder += REMIND_S
                print(f"waiting until a request works: {reason}", flush=True)
            time.sleep(pause)
            pause = min(pause * PAUSE_GROWTH, MAX_PAUSE_S)


class NotYet(Exception):
    """A request failed, and may work later."""


def _pipeline_models(url: str, model: str) -> list[str]:
    """Raises NotYet if there is no other model than the GGUF file `model`."""
    listed = [entry["id"] for entry in json.loads(_request(f"{url}/v1/models"))["data"]]
    # The default name of a GGUF file is that of the file, without its end.
    names = [name for name in listed if not (model and Path(model).name.startswith(name))]
    if not names:
        raise NotYet("no pipeline is ready; the worker's log lines have the reason")
    return names


def _greeting(names: list[str]) -> bytes:
    # A pipeline need not have a limit of tokens: it stops when the first line of its stream has been read.
    choice = {"model": names[0], "stream": True} if names else {"max_tokens": 1}
    return json.dumps({"messages": [{"role": "user", "content": "Hi"}], **choice}).encode()


def _request(url: str, body: bytes | None = None) -> bytes:
    """Returns the response's body, or its first line for a request with a `body`. Raises NotYet, or Fail if waiting
    won't help."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    # Without the environment's proxy: the request stays on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=REQUEST_TIMEOUT_S) as response:
            return bytes(response.read() if body is None else response.readline())
    except urllib.error.HTTPError as error:
        answer = error.read(500).decode(errors="replace").strip()
        if error.code in NOT_YET:
            raise NotYet(answer or str(error)) from None
        raise Fail(f"both programs run, but a request failed with {error.code}: {answer}") from None
    except OSError as error:
        raise NotYet(str(error)) from None


def _require_alive(running: Mapping[str, subprocess.Popen[str]]) -> None:
    for name, child in running.items():
        status = child.poll()
        if status is not None:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with exit code {status}"
            raise Fail(f"the {name} {how}")


def _store(options: Options) -> Path | None:
    """The file of the sidecar's store, in a folder that only the user can read; None if the user chose another store.

    Each port has a file of its own, since sidecars with one store generate each other's background responses.
    """
    if any(word.partition("=")[0] == "--store" for word in options.sidecar_args) or os.environ.get(STORE_VARIABLE):
        return None
    folder = setup.CACHE / "stores"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{options.port}.db"


def _print_ready(options: Options, model: str, names: list[str], store: Path | None) -> None:
    url = f"http://{HOST}:{options.port}"
    lines = [
        "",
        "Ready.",
        *([f"  model    {model}"] if model else []),
        *([f"  models   {', '.join(names)} ({options.pipelines})"] if names else []),
        f"  worker   {HOST}:{options.worker_port} (gRPC, KServe v2)",
        f"  sidecar  {url}/v1 (OpenAI's API)",
        *([f"  store    {store}"] if store else []),
        "",
        "Try it:",
        *(f"  {_curl(f'{url}/v1/chat/completions', question)}" for question in _questions(names)),
        "",
    ]
    if store:
        lines += [
            "The sidecar keeps responses. To continue one, send its id instead of the conversation so far:",
            f"  {_curl(f'{url}/v1/responses', RESPONSE)}",
            f"  {_curl(f'{url}/v1/responses', FOLLOW_UP)}",
            "",
        ]
    print("\n".join([*lines, "Ctrl-C ends both.", ""]), flush=True)


def _questions(names: list[str]) -> list[str]:
    """Bodies of requests: to each pipeline's model, or to the default model if there are none."""
    return [f'{{"model":"{name}",{PIPELINE_QUESTION}' for name in names] or [QUESTION]


def _curl(url: str, body: str) -> str:
    return f"curl {url} -H 'Content-Type: application/json' -d '{body}'"


if __name__ == "__main__":
    run_main(main)
