"""`python -m tests.ops.llama_server`: runs a real llama-server, from the package xllamacpp (33 MB), behind pipelines.

The kind `http` uses its endpoint `/completion`, the kind `openai` its `/v1`.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from anyserve_worker.pipelines import http_api, openai_api
from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.core.pipeline import Folder, Pipeline
from protos.contract import REASON_CONTEXT_LENGTH
from tests.anyserve_worker.pipelines.answering import Summary, abandon, chat, collect, running, summary
from tests.models import smollm2_path

SERVER = """
import sys, threading, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.hostnames, parameters.port = sys.argv[1], ["127.0.0.1"], 0
parameters.n_ctx, parameters.n_parallel = 1024, 1
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
threading.Event().wait()
"""
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@contextmanager
def llama_server() -> Iterator[str]:
    """Yields the server's URL."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "--only-binary=:all:", "xllamacpp"], check=True)
        process = subprocess.Popen(
            [python, "-c", SERVER, str(smollm2_path())], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()
            process.wait()


@asynccontextmanager
async def ready(pipeline: Pipeline) -> AsyncIterator[Pipeline]:
    async with running(pipeline) as reports:
        assert reports[0]
        assert all(state.ready for state in reports[0]), reports
        yield pipeline


async def check(pipeline: Pipeline, model: str) -> None:
    async def answer(text: str, **fields: Any) -> Summary:
        return summary(await collect(pipeline, chat(text, model=model, temperature=0, seed=1, **fields), 120))

    whole = await answer("Say hello.", max_tokens=8)
    streamed = await answer("Say hello.", max_tokens=8, stream=True)
    print(whole)
    assert (streamed.text, streamed.finish) == (whole.text, whole.finish)
    assert whole.text
    assert whole.finish == "length"
    for usage in (whole.usage, streamed.usage):
        assert usage is not None
        assert usage.completion_tokens == 8
        assert usage.prompt_tokens > 5

    word = whole.text.split()[1]
    stopped = await answer("Say hello.", max_tokens=8, stop=word, stream=True)
    assert (stopped.text, stopped.finish) == (whole.text[: whole.text.index(word)], "stop")

    format = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    begin = time.monotonic()
    constrained = await answer("A number as JSON.", max_tokens=20, response_format=format)
    seconds = time.monotonic() - begin
    assert constrained.text.replace(" ", "").replace("\n", "").startswith('{"n":'), constrained

    with pytest.raises(InvalidInput) as caught:
        await answer("word " * 3000, stream=True)
    assert caught.value.reason == REASON_CONTEXT_LENGTH

    # The server has a single slot, so it answers soon only if the abandoned request has ended.
    await abandon(pipeline, chat("Count to 1000.", model=model, max_tokens=900, ignore_eos=True, stream=True))
    begin = time.monotonic()
    await answer("Say hello.", max_tokens=1)
    assert time.monotonic() - begin < 10 * seconds, "the server went on with an abandoned request"


async def check_both(url: str) -> None:
    folder = Path("pipelines/model")
    overrides = {"request": {"body": {"ignore_eos": "{ignore_eos}"}}}
    settings = {"use": "llamacpp", "base_url": url, "overrides": overrides}
    async with ready(http_api.load(Folder("model", folder, settings))) as pipeline:
        await check(pipeline, "model")
    async with running(openai_api.load(Folder("model", folder, {"base_url": f"{url}/v1", "models": "*"}))) as reports:
        print(reports)
    async with ready(openai_api.load(Folder("model", folder, {"base_url": f"{url}/v1"}))) as pipeline:
        await check(pipeline, "model")


@click.command()
def main() -> None:
    """Runs a llama-server behind pipelines. Exit status 1 if something fails."""
    with llama_server() as url:
        asyncio.run(check_both(url))
    print("passed")


if __name__ == "__main__":
    sys.exit(main())
