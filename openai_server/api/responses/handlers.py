"""The handlers of `/v1/responses`, `/v1/responses/compact` and `/v1/responses/input_tokens`."""

from collections.abc import Sequence

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.bodies.parsers import Parse
from openai_server.api.endpoint import Handler
from openai_server.api.generation_handler import BuildAnswer, GenerationHandler
from openai_server.api.responses.count import count
from openai_server.api.responses.opening import completed
from openai_server.api.responses.output.compaction import CompactionWriter, compacted, response_with_summary
from openai_server.api.responses.output.whole import response
from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.request import parse, parse_to_compact
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.services import Services
from openai_server.api.stream_writer import StreamWriter
from openai_server.api.tokens.count import CountHandler
from openai_server.core.answer import Answer
from openai_server.core.sealing import Seal
from openai_server.parsing.choice_reader import AnswerFormat

ENCRYPTED = "reasoning.encrypted_content"
"""The value of `include` for sealed reasoning."""


def responses(services: Services) -> Handler:
    def answer(
        identity: AnswerIdentity, answers: Sequence[Answer], request: ResponsesRequest, format: AnswerFormat | None
    ) -> WholeAnswer:
        now = services.clock()
        if request.compacts:
            seal = services.sealer.sealing("compaction", identity.model)
            return response_with_summary(identity, answers, request, format, seal, now)
        return response(identity, answers, request, format, _reasoning_seal(services, identity, request), now)

    return _handler(services, parse, answer)


def compact(services: Services) -> Handler:
    return _handler(
        services,
        parse_to_compact,
        lambda identity, answers, request, format: compacted(
            identity, answers, request, format, services.sealer.sealing("compaction", identity.model)
        ),
    )


def input_tokens(services: Services) -> Handler:
    return CountHandler(services, parse=parse, work=count)


def _handler(services: Services, parse: Parse[ResponsesRequest], answer: BuildAnswer[ResponsesRequest]) -> Handler:
    def writer(identity: AnswerIdentity, request: ResponsesRequest, format: AnswerFormat | None) -> StreamWriter:
        if request.compacts:
            seal = services.sealer.sealing("compaction", identity.model)
            return CompactionWriter(identity, request, seal, services.clock)
        return ResponsesWriter(identity, request, format, _reasoning_seal(services, identity, request), services.clock)

    return GenerationHandler(
        services,
        parse=parse,
        id_prefix="resp_",
        complete=lambda request, context: completed(services, request, context),
        answer=answer,
        writer=writer,
    )


def _reasoning_seal(services: Services, identity: AnswerIdentity, request: ResponsesRequest) -> Seal | None:
    return services.sealer.sealing("reasoning", identity.model) if ENCRYPTED in request.include else None
