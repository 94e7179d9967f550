"""The handlers of `/v1/responses`, `/v1/responses/compact` and `/v1/responses/input_tokens`."""

from collections.abc import Sequence

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.bodies.parsers import Parse
from openai_server.api.endpoint import Handler
from openai_server.api.generation_handler import BuildAnswer, GenerationHandler
from openai_server.api.responses.count import count
from openai_server.api.responses.opening import completed
from openai_server.api.responses.output.compaction import CompactionWriter, compacted, response_with_summary
from openai_server.api.responses.output.response_stream import ResponseStream
from openai_server.api.responses.output.whole import response
from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.request import (
    parse,
    parse_to_compact,
    parse_to_compact_with_source,
    parse_with_source,
)
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.responses.storage.handler import StoringHandler
from openai_server.api.responses.stored_view import ENCRYPTED
from openai_server.api.services import Services
from openai_server.api.tokens.count import CountHandler
from openai_server.core.answer import Answer
from openai_server.core.request_context import RequestContext
from openai_server.core.sealing import Seal
from openai_server.parsing.choice_reader import AnswerFormat


def responses(services: Services) -> Handler:
    def answer(
        identity: AnswerIdentity, answers: Sequence[Answer], request: ResponsesRequest, format: AnswerFormat | None
    ) -> WholeAnswer:
        now = services.clock()
        if request.compacts:
            seal = services.sealer.sealing("compaction", identity.model)
            return response_with_summary(identity, answers, request, format, seal, now)
        return response(identity, answers, request, format, _reasoning_seal(services, identity, request), now)

    return _handler(services, parse, parse_with_source, answer)


def compact(services: Services) -> Handler:
    return _handler(
        services,
        parse_to_compact,
        parse_to_compact_with_source,
        lambda identity, answers, request, format: compacted(
            identity, answers, request, format, services.sealer.sealing("compaction", identity.model)
        ),
    )


def input_tokens(services: Services) -> Handler:
    return CountHandler(services, parse=parse if services.store is None else parse_with_source, work=count)


def _handler(
    services: Services,
    parse: Parse[ResponsesRequest],
    parse_with_source: Parse[ResponsesRequest],
    answer: BuildAnswer[ResponsesRequest],
) -> Handler:
    """`parse_with_source` is for servers with a store."""

    def writer(identity: AnswerIdentity, request: ResponsesRequest, format: AnswerFormat | None) -> ResponseStream:
        return stream_writer(services, identity, request, format)

    async def complete(request: ResponsesRequest, context: RequestContext) -> ResponsesRequest:
        return await completed(services, request, context)

    if (store := services.store) is None:
        return GenerationHandler(
            services, parse=parse, id_prefix="resp_", complete=complete, answer=answer, writer=writer
        )
    return StoringHandler(
        services, store, writer, parse=parse_with_source, id_prefix="resp_", complete=complete, answer=answer
    )


def stream_writer(
    services: Services, identity: AnswerIdentity, request: ResponsesRequest, format: AnswerFormat | None
) -> ResponseStream:
    """The writer of the response's stream. `format`: None if all of the model's text is content."""
    if request.compacts:
        seal = services.sealer.sealing("compaction", identity.model)
        return CompactionWriter(identity, request.settings, seal, services.clock)
    reasoning_seal = _reasoning_seal(services, identity, request)
    return ResponsesWriter.of(identity, request, format, reasoning_seal, services.clock)


def _reasoning_seal(services: Services, identity: AnswerIdentity, request: ResponsesRequest) -> Seal | None:
    return services.sealer.sealing("reasoning", identity.model) if ENCRYPTED in request.include else None
