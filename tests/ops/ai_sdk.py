"""`python -m tests.ops.ai_sdk`: runs the AI SDK, fetched from npm, with the pair and a store.

First the program in examples/server_side_history/ai_sdk, then ai_sdk_calls.mjs: histories that the SDK sends as
references to stored items, and loops of tools, with all ways to keep a history.
"""

import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import click

from scripts.errors import Fail
from tests.e2e import servers
from tests.e2e.chats import EXAMPLES, check_that_the_server_keeps_the_chat
from tests.e2e.conftest import SMOLLM2
from tests.models import smollm2_path
from tests.ops.client import get

CALLS = Path(__file__).with_name("ai_sdk_calls.mjs")
TIMEOUT = 300.0
"""Seconds for each command."""


def install(folder: Path) -> None:
    """Installs the example with its locked packages. Raises Fail."""
    if shutil.which("npm") is None:
        raise Fail("npm is needed to fetch the AI SDK, and is not on PATH")
    shutil.copytree(EXAMPLES / "ai_sdk", folder, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy(CALLS, folder)
    run("npm", "ci", "--no-audit", "--no-fund", folder=folder)


def run(*command: str, folder: Path) -> str:
    """Returns the command's output. Raises Fail."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    if result.returncode:
        raise Fail(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def _is_ready(url: str) -> bool:
    return get(url, "/readyz").status == 200


@click.command()
def main() -> None:
    """Runs the AI SDK with the pair. Exit status 1 if something fails."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "ai_sdk")
        install(folder)
        model = f"{SMOLLM2}={smollm2_path()}"
        with (
            servers.worker("--model", model) as (_, address),
            servers.sidecar(address, "--store", f"sqlite:///{temporary}/store.db") as (_, url),
            servers.sidecar(address) as (_, url_without_store),
        ):
            for server in (url, url_without_store):
                servers.eventually(partial(_is_ready, server))
            command = ["npm", "start", "--silent", "--", "--model", SMOLLM2]
            for options in ((), ("--conversation",)):
                check_that_the_server_keeps_the_chat(command, url, *options, folder=folder)
                click.echo(f"passed: examples/server_side_history/ai_sdk {' '.join(options)}")
            urls = (f"{url}/v1", f"{url_without_store}/v1")
            click.echo(run("node", CALLS.name, *urls, SMOLLM2, folder=folder), nl=False)


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, Fail) as error:
        sys.exit(f"failed: {error}")
