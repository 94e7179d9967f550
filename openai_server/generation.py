"""One request to the backend and back: as many calls as it has prompts, and their answers together."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from openai_server import decode, encode, sse
from openai_server.backend import Backend
from openai_server.catalog import Catalog, Model
from openai_server.chat.template import CHATML, CHATML_END, Templates
from openai_server.decode import Answer
from openai_server.delivery import Write
from openai_server.errors import BackendError, from_backend
from openai_server.mailbox import PROMPTS_IN_FLIGHT
from openai_server.responses import Chunks
from openai_server.schemas import ChatRequest, CompletionRequest, Prompt
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest

AnyRequest = CompletionRequest | ChatRequest
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Prepared:
    model: Model
    calls: list[ModelInferRequest]


class Generator:
    """`chat_template` overrides the models' own. A stream that is silent for `ping_interval` seconds gets a ping."""

    def __init__(
        self,
        backend: Backend,
        catalog: Catalog,
        templates: Templates,
        *,
        chat_template: str | None,
        ping_interval: float,
    ) -> None:
        self._backend = backend
        self._catalog = catalog
        self._templates = templates
        self._chat_template = chat_template
        self._ping_interval = ping_interval

    async def answer(self, request: AnyRequest, id: str) -> tuple[str, list[Answer]]:
        """The model that answered, and its answer to each prompt. Raises APIError."""
        for again in (True, False):
            try:
                prepared = await self._prepare(request, id)
                answers = await gather([self._infer(call, request.choices) for call in prepared.calls])
                return prepared.model.name, answers
            except BackendError as error:
                if not (self._outdated(error, request) and again):
                    raise from_backend(error, encode.params(request)) from error
        raise AssertionError("the second try answers or raises")

    async def stream(self, request: AnyRequest, id: str, chunks_for: Callable[[str], Chunks], write: Write) -> None:
        """Writes the events of the answer; `chunks_for` takes the name of the model. Raises APIError."""
        again = True
        while True:
            try:
                prepared = await self._prepare(request, id)
                chunks = chunks_for(prepared.model.name)
                n_choices = len(prepared.calls) * request.choices
                begin, texts = chunks.begin(n_choices), decode.Texts(n_choices)
                async with self._backend.stream(prepared.calls, request.choices, self._ping_interval) as mailbox:
                    while (rows := await mailbox.take()) is not None:
                        events = begin
                        for row in rows:
                            if choice := texts.grow(*row):
                                events += chunks.delta(choice)
                        if events != begin:
                            begin, again = b"", False
                            await write(events)
                        elif not rows:
                            await write(sse.PING)
                await write(begin + chunks.end(decode.total(mailbox.usages)))
                return
            except BackendError as error:
                if not (self._outdated(error, request) and again):
                    raise from_backend(error, encode.params(request)) from error
                again = False

    def _outdated(self, error: BackendError, request: AnyRequest) -> bool:
        """Whether another try may find another model: who names none gets the one that is there."""
        self._catalog.learn(error)
        return error.status == "NOT_FOUND" and not request.model

    # ---- One call

    async def _infer(self, call: ModelInferRequest, n: int) -> Answer:
        return decode.answer(await self._backend.infer(call), n)

    # ---- Before the calls

    async def _prepare(self, request: AnyRequest, id: str) -> _Prepared:
        model = await self._catalog.resolve(request.model)
        model.require(contract.TASK_GENERATE)
        prompts: list[Prompt]
        if isinstance(request, CompletionRequest):
            prompts = request.prompts
        else:
            template = self._chat_template or model.parameters.get("chat_template") or CHATML
            prompts = [await self._render(request, model, template)]
            if template is CHATML and contract.STOP.name in model.takes:
                request = request.with_stop(CHATML_END)
        calls = [
            encode.infer_request(
                request, prompt, model=model.name, request_id=f"{id}-{k}" if len(prompts) > 1 else id, takes=model.takes
            )
            for k, prompt in enumerate(prompts)
        ]
        return _Prepared(model, calls)

    async def chat_prompt(self, request: ChatRequest, model: Model) -> str:
        """What the messages become, for who wants to know that alone. Raises InvalidRequest."""
        template = self._chat_template or model.parameters.get("chat_template") or CHATML
        prompt = await self._render(request, model, template)
        assert isinstance(prompt, str)
        return prompt

    async def _render(self, request: ChatRequest, model: Model, template: str) -> Prompt:
        special_tokens = {
            name: token for name in ("bos_token", "eos_token") if (token := model.parameters.get(name)) is not None
        }
        # In a thread, so that a template at its limit does not hold up the streams of others.
        return await asyncio.to_thread(self._templates.render, template, request.messages, special_tokens)


# ---- Several at a time


async def gather(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest."""
    if len(calls) == 1:
        return [await calls[0]]
    slots = asyncio.Semaphore(PROMPTS_IN_FLIGHT)

    async def one(call: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await call

    tasks = [asyncio.create_task(one(call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        for call in calls:
            call.close()  # those that never got a slot
