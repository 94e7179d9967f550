"""`python -m tests.foreign.servers.dynamo_front PORT`: Dynamo's KServe front with a scripted engine in its process."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from dynamo.llm import (
    EngineType,
    EntrypointArgs,
    ModelInput,
    ModelType,
    WorkerType,
    make_engine,
    register_model,
    run_input,
)
from dynamo.runtime import DistributedRuntime

from tests.foreign import engine

MODEL = "dynamo-model"


async def complete(request: dict[str, Any], context: Any) -> AsyncIterator[dict[str, Any]]:
    """Yields the chunks of an OpenAI completion, as Dynamo's engines do."""
    prompt = request["prompt"]
    prompt = prompt[0] if isinstance(prompt, list) else prompt
    engine.note("request", model=MODEL, version="", prompt=prompt, inputs=request)
    deltas = engine.generate(prompt, request.get("max_tokens"), request.get("stop") or [])
    n_tokens = 0
    while True:
        delta = await asyncio.get_running_loop().run_in_executor(None, functools.partial(next, deltas, None))
        if delta is None:
            break
        if context.is_stopped():
            engine.note("cancelled", after=n_tokens)
            return
        n_tokens += delta.n_tokens
        choice = {"index": 0, "text": delta.text, "finish_reason": delta.finish, "logprobs": None}
        yield {
            "id": "cmpl-scripted",
            "object": "text_completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [choice],
        }
    engine.note("ended", tokens=n_tokens)


async def main(port: int) -> None:
    runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
    endpoint = runtime.endpoint("scripted.engine.generate")
    served = asyncio.ensure_future(endpoint.serve_endpoint(complete))
    await register_model(
        ModelInput.Text,
        ModelType.Completions,
        endpoint,
        MODEL,
        MODEL,
        worker_type=WorkerType.Aggregated,
        skip_model_assets=True,
    )
    front = EntrypointArgs(EngineType.Dynamic, http_host="127.0.0.1", http_port=port)
    await run_input(runtime, "grpc", await make_engine(runtime, front))
    await served


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
