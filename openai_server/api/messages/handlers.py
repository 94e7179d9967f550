"""The handlers of `/v1/messages` and `/v1/messages/count_tokens`."""

from openai_server.api.answers import AnswerIdentity
from openai_server.api.endpoint import Handler
from openai_server.api.generation_handler import GenerationHandler
from openai_server.api.messages.count import count
from openai_server.api.messages.opening import opened
from openai_server.api.messages.request import parse, parse_count
from openai_server.api.messages.schema import ConversationTurn, MessagesTurn
from openai_server.api.messages.whole import whole
from openai_server.api.messages.writer import MessagesWriter
from openai_server.api.services import Services
from openai_server.api.tokens.count import CountHandler
from openai_server.core.request_context import RequestContext
from openai_server.core.sealing import Seal
from openai_server.core.tiers import BATCH


def messages(services: Services) -> Handler:
    def seal(identity: AnswerIdentity, request: MessagesTurn) -> Seal | None:
        return services.sealer.sealing("reasoning", identity.model) if request.omits_thinking else None

    async def complete(request: MessagesTurn, context: RequestContext) -> MessagesTurn:
        assert isinstance(request.turn, ConversationTurn)
        request.turn = await opened(services, request.turn, context)
        request.is_batched = context.tier is BATCH
        return request

    return GenerationHandler(
        services,
        parse=parse,
        id_prefix="msg_",
        complete=complete,
        answer=lambda identity, answers, request, format: whole(
            identity, answers, request, format, seal(identity, request)
        ),
        writer=lambda identity, request, _: MessagesWriter(identity, request, seal(identity, request)),
    )


def count_tokens(services: Services) -> Handler:
    return CountHandler(services, parse=parse_count, work=count)
