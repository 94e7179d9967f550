"""The handlers of `/v1/responses`, `/v1/responses/compact` and `/v1/responses/input_tokens`."""

from collections.abc import Sequence

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.endpoint import Handler
from openai_server.api.generation_handler import GenerationHandler
from openai_server.api.responses.count import count
from openai_server.api.responses.opening import completed
from openai_server.api.responses.output.compaction import CompactionWriter, compacted, response_with_summary
from openai_server.api.responses.output.open_items import Seal
from openai_server.api.responses.output.whole import response
from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.request import parse, parse_to_compact
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.services import Services
from openai_server.api.stream_writer import StreamWriter
from openai_server.api.tokens.count import CountHandler
from openai_server.core.answer import Answer
from openai_server.parsing.choice_reader import AnswerFormat

ENCRYPTED = "reasoning.encrypted_content"
"""The value of `include` for sealed reasoning."""


def responses(services: Services) -> Handler:
    clock = services.clock

    def seal(identity: AnswerIdentity, request: ResponsesRequest) -> Seal | None:
        if ENCRYPTED not in request.include:
            return None
        return lambda text: services.sealer.seal(text, "reasoning", identity.model)

    def answer(
        identity: AnswerIdentity, answers: Sequence[Answer], request: ResponsesRequest, format: AnswerFormat | None
    ) -> WholeAnswer:
        if request.compacts:
            sealed = _summary_seal(services, identity)
            return response_with_summary(identity, answers, request, format, sealed, clock())
        return response(identity, answers, request, format, seal(identity, request), clock())

    def writer(identity: AnswerIdentity, request: ResponsesRequest, format: AnswerFormat | None) -> StreamWriter:
        if request.compacts:
            return CompactionWriter(identity, request, _summary_seal(services, identity), clock)
        return ResponsesWriter(identity, request, format, seal(identity, request), clock)

    return GenerationHandler(
        services,
        parse=parse,
        id_prefix="resp_",
        complete=lambda request, context: completed(services, request, context),
        answer=answer,
        writer=writer,
    )


def compact(services: Services) -> Handler:
    return GenerationHandler(
        services,
        parse=parse_to_compact,
        id_prefix="resp_",
        complete=lambda request, context: completed(services, request, context),
        answer=lambda identity, answers, request, format: compacted(
            identity, answers, request, format, _summary_seal(services, identity)
        ),
        writer=lambda identity, request, _: CompactionWriter(
            identity, request, _summary_seal(services, identity), services.clock
        ),
    )


def input_tokens(services: Services) -> Handler:
    return CountHandler(services, parse=parse, work=count)


def _summary_seal(services: Services, identity: AnswerIdentity) -> Seal:
    return lambda text: services.sealer.seal(text, "compaction", identity.model)
