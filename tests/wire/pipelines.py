"""The worker's own server with pipelines, whose processes are real."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

from grpc import aio

from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.pipelines.options import PipelineOptions
from anyserve_worker.pipelines.pipelines import Pipelines
from anyserve_worker.service.server import Worker
from anyserve_worker.service.server_options import ServerOptions
from protos import contract, tensors
from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

WAIT_SECONDS = 20.0
LIMITS = Limits()
MESSAGES = [{"role": "user", "content": "hi"}]

WORDS = """
    class PipelineWrapper:
        async def run_chat_completion_async(self, model, messages, body):
            async def words():
                for word in ("Hello", ", ", messages[-1]["content"]):
                    yield word
            return words()
    """
"""A pipeline that repeats the last message."""
TICKS = """
    import asyncio

    class PipelineWrapper:
        async def run_chat_completion_async(self, model, messages, body):
            async def ticks():
                while True:
                    yield "tick "
                    await asyncio.sleep(0.02)
            return ticks()
    """
"""A pipeline that never ends its answers."""


def write(folder: Path, name: str, source: str, **files: str) -> Path:
    """Writes the wrapper of a pipeline, and files whose names have `_` instead of `.`."""
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "pipeline_wrapper.py").write_text(dedent(source))
    for file, text in files.items():
        (path / file.replace("_", ".")).write_text(dedent(text))
    return path


@dataclass(slots=True)
class Stream:
    """A request on a stream of its own, and what has been received."""

    call: Any
    events: list[dict[str, Any]] = field(default_factory=list)
    responses: list[pb.ModelInferResponse] = field(default_factory=list)
    errors: list[pb.ModelStreamInferResponse] = field(default_factory=list)

    async def read(self) -> bool:
        """Reads a response. Returns whether there was one."""
        async with asyncio.timeout(WAIT_SECONDS):
            response = await self.call.read()
        if response == aio.EOF:
            return False
        if response.error_message:
            self.errors.append(response)
        else:
            self.responses.append(response.infer_response)
            self.events += events_of(response.infer_response)
        return True

    async def finish(self) -> "Stream":
        while await self.read():
            pass
        return self

    @property
    def text(self) -> str:
        return text_of(self.events)

    @property
    def error(self) -> tuple[str, str]:
        """The status and the message of the only error."""
        [response] = self.errors
        return response.infer_response.parameters[contract.ERROR_STATUS].string_param, response.error_message


class Server:
    def __init__(self, worker: Worker, stub: GRPCInferenceServiceStub, folder: Path) -> None:
        self.worker, self.folder = worker, folder
        self.stub: Any = stub

    @property
    def pipelines(self) -> Pipelines:
        assert self.worker.pipelines
        return self.worker.pipelines.pipelines

    def pid(self, name: str) -> int:
        """Id of the pipeline's process; 0: there is none."""
        process = self.pipelines._served[name]._process
        return process.pid if process else 0

    async def infer(self, request: pb.ModelInferRequest, **options: Any) -> list[dict[str, Any]]:
        return events_of(await self.stub.ModelInfer(request, timeout=WAIT_SECONDS, **options))

    async def stream(self, request: pb.ModelInferRequest, **options: Any) -> Stream:
        call = self.stub.ModelStreamInfer(**options)
        await call.write(request)
        await call.done_writing()
        return Stream(call)

    async def states(self) -> dict[str, tuple[str, str]]:
        """(state, reason) of each model."""
        index = await self.stub.RepositoryIndex(pb.RepositoryIndexRequest())
        return {model.name: (model.state, model.reason) for model in index.models}

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    folder: Path,
    limits: Limits = LIMITS,
    python: str = "",
    **options: Any,
) -> AsyncIterator[Server]:
    server_options = ServerOptions((), ("127.0.0.1",), 0, 0, "info", 1, **options)
    worker = await Worker.listen(
        server_options, None, PipelineOptions(folder, limits, python or sys.executable, "info")
    )
    try:
        await worker.load(None)
        async with aio.insecure_channel(f"127.0.0.1:{worker.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            yield Server(worker, GRPCInferenceServiceStub(channel), folder)
    finally:
        await worker.drain(0)


def request(
    model: str,
    text: str = "hi",
    *,
    task: str = "",
    body: Mapping[str, Any] | list[bytes] | None = None,
    outputs: tuple[str, ...] = (),
    id: str = "",
    **inputs: list[bytes],
) -> pb.ModelInferRequest:
    """`inputs`: elements of further tensors, or of `messages`."""
    message = pb.ModelInferRequest(model_name=model, id=id)
    if task:
        message.parameters[contract.PARAM_TASK].string_param = task
    inputs.setdefault("messages", [json.dumps([{"role": "user", "content": text}]).encode()])
    if body is not None:
        inputs["body"] = body if isinstance(body, list) else [json.dumps(body).encode()]
    for name, elements in inputs.items():
        spec = {s.name: s for s in contract.TASKS[contract.TASK_RESPONSES].inputs}[name]
        tensors.add_input(message, spec, elements)
    for output in outputs:
        message.outputs.add(name=output)
    return message


def outputs_of(response: pb.ModelInferResponse) -> dict[str, list[Any]]:
    return {name: list(tensor.elements) for name, tensor in tensors.read_outputs(response).items()}


def events_of(response: pb.ModelInferResponse) -> list[dict[str, Any]]:
    return [json.loads(event) for event in outputs_of(response).get("events", ())]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "text")
