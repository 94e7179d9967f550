"""The handler of endpoints that generate text, whole or as a stream."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import urandom
from typing import Generic, TypeVar

from starlette.responses import Response

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.bodies.parsers import Parse
from openai_server.api.generation import ResolvedModel
from openai_server.api.in_tier import take_tier
from openai_server.api.model_in_path import take_model_from_path
from openai_server.api.prompt_estimate import output_tokens, prompt_tokens
from openai_server.api.schemas import GenerateRequest
from openai_server.api.services import Services
from openai_server.api.stream_writer import StreamWriter
from openai_server.core.answer import Answer
from openai_server.core.request_context import RequestContext
from openai_server.core.turn import Turn
from openai_server.http.json_response import JSONResponse
from openai_server.http.streaming import EventStream, EventWriter, unless_gone
from openai_server.parsing.choice_reader import AnswerFormat

R = TypeVar("R", bound=GenerateRequest)

BuildAnswer = Callable[[AnswerIdentity, Sequence[Answer], R, AnswerFormat | None], WholeAnswer]
"""Builds a whole answer from the answers to all prompts. The format is how the model's text is parsed; None: all of it
is content."""
NewWriter = Callable[[AnswerIdentity, R, AnswerFormat | None], StreamWriter]
"""Creates the writer of a stream."""
Complete = Callable[[R, RequestContext], Awaitable[R]]
"""Returns the request with what parsing alone can't add. Raises APIError and ClientGone."""


@dataclass(slots=True)
class Generation(Generic[R]):
    """An answer to generate. `created` is in Unix seconds."""

    request: R
    id: str
    created: int
    context: RequestContext

    def identity(self, model: ResolvedModel) -> AnswerIdentity:
        return AnswerIdentity(self.id, self.created, model.name)


class GenerationHandler(Generic[R]):
    """Handles one endpoint's requests. `id_prefix` is the prefix of an answer's id."""

    def __init__(
        self,
        services: Services,
        *,
        parse: Parse[R],
        id_prefix: str,
        answer: BuildAnswer[R],
        writer: NewWriter[R],
        complete: Complete[R] | None = None,
    ) -> None:
        self._services = services
        self._parse = parse
        self._id_prefix = id_prefix
        self._build_answer = answer
        self._writer = writer
        self._complete = complete

    async def __call__(self, context: RequestContext) -> Response:
        """Raises APIError, ClientDisconnect and ClientGone. A returned stream raises them until its first event."""
        access, services = context.access, self._services
        access.count_request()
        request, body_size = await services.bodies.read(self._parse, context)
        take_model_from_path(request.turn, context)
        if self._complete is not None:
            request = await self._complete(request, context)
        id = self._id_prefix + (context.answer_key or urandom(16).hex())
        generation = Generation(request, id, int(services.clock()), context)
        if (response := await self._without_generating(generation)) is not None:
            return response
        take_tier(request, context)
        if access.is_limited:
            access.reserve(
                prompt_tokens(request.turn.prompts, body_size + request.turn.file_bytes), output_limit(request.turn)
            )
        if request.stream:
            return EventStream(partial(self._stream, generation))
        answer = await self._whole(generation)
        context.take_answer(answer.usage, answer.n_choices, answer.finish_reasons)
        return JSONResponse(answer.content)

    async def _without_generating(self, generation: Generation[R]) -> Response | None:
        """The response to a request that is answered in the background, or was answered before; None: to be answered
        now."""
        return None

    async def _stream(self, generation: Generation[R], writer: EventWriter) -> bytes:
        """Writes the events of the answer except the last ones, which it returns."""
        async with generation.context.access:
            return await self._generate(generation, writer, self._writer)

    async def _generate(self, generation: Generation[R], writer: EventWriter, new_writer: NewWriter[R]) -> bytes:
        request, context = generation.request, generation.context
        return await self._services.generator.stream(
            request.turn,
            generation.id,
            context,
            lambda model: new_writer(generation.identity(model), request, model.format),
            writer,
            context.access.delivered,
        )

    async def _whole(self, generation: Generation[R]) -> WholeAnswer:
        request, context = generation.request, generation.context
        model, answers = await unless_gone(context.scope, self._answers(request.turn, generation.id, context))
        return self._build_answer(generation.identity(model), answers, request, model.format)

    async def _answers(self, turn: Turn, id: str, context: RequestContext) -> tuple[ResolvedModel, list[Answer]]:
        access = context.access
        async with access:
            model, answers = await self._services.generator.answer(turn, id, context)
            if access.is_limited:
                usages = [answer.usage for answer in answers]
                access.delivered(
                    usages, len(answers), 0 if None not in usages else output_tokens(answers, model.format)
                )
            return model, answers


def output_limit(turn: Turn) -> int:
    """Maximum number of generated tokens; 0 for a request without a limit, which reserves no tokens."""
    return (turn.token_limit or 0) * turn.n_generated * (len(turn.prompts) or 1)
