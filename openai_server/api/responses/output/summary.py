"""Replaces a conversation by a summary that the model writes: the turn for it, and the items of its response. PURE.

Clients send the items back in place of the conversation. The summary is sealed, since clients must not change it.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from openai_server.api.responses.answer import (
    ResponseCompaction,
    ResponseInputFile,
    ResponseInputText,
    ResponseUserMessage,
)
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.core.errors import APIError
from openai_server.core.messages import Message, NamedFile, UserMessage
from openai_server.core.sealing import Seal
from openai_server.core.turn import NO_GUIDE

PROMPT = (
    "Summarize this conversation, so that you can continue it with the summary alone. Include what the user wants, all "
    "facts, names, numbers, paths and decisions that may still matter, what has been done with which results, and what "
    "remains to be done. Leave out greetings and repetitions. Write only the summary."
)
"""The user's last message in the turn."""
MAX_TOKENS = 2048
"""Maximum tokens of a summary, reasoning included, unless the request has `max_output_tokens`."""


def summarizing(request: ResponsesRequest, messages: Sequence[Message]) -> ResponsesRequest:
    """The request with a turn that returns a summary of its conversation. `messages` are those of the turn, with files
    in place of their texts.

    The oldest messages of a conversation that doesn't fit are left out. Tools are not in the prompt.
    """
    turn = request.turn
    return replace(
        request,
        turn=replace(
            turn,
            messages=[*turn.messages, UserMessage(PROMPT)],
            message_fields=[*turn.message_fields, "input"] if turn.message_fields else (),
            drops_oldest=True,
            tools=(),
            tool_use=None,
            guide=NO_GUIDE,
            token_limit=turn.token_limit or MAX_TOKENS,
            top_logprobs=None,
        ),
        compacts=True,
        user_messages=_user_messages(request, messages),
    )


def _user_messages(request: ResponsesRequest, messages: Sequence[Message]) -> Sequence[UserMessage]:
    """The messages of the user. A summary in the input is not one: the new summary includes it."""
    summaries = {item.message for item in request.sealed_items if item.kind == "compaction"}
    return [message for i, message in enumerate(messages) if isinstance(message, UserMessage) and i not in summaries]


def summary_item(key: str, pieces: Iterable[str], seal: Seal) -> ResponseCompaction:
    """The item with the sealed summary, which consists of these pieces. Raises APIError if it is empty."""
    summary = "".join(pieces).strip()
    if not summary:
        raise APIError(502, "The model returned an empty summary.", code="backend_error")
    return ResponseCompaction(summary_id(key), seal(summary))


def summary_id(key: str) -> str:
    return f"cmp_{key}"


def user_messages(key: str, messages: Sequence[UserMessage]) -> list[ResponseUserMessage]:
    return [
        ResponseUserMessage(f"msg_{key}{i:02x}", "completed", "user", _content(message))
        for i, message in enumerate(messages)
    ]


def _content(message: UserMessage) -> Sequence[ResponseInputText | ResponseInputFile]:
    if isinstance(message.content, str):
        return [ResponseInputText(message.content)]
    return [_file(part) if isinstance(part, NamedFile) else ResponseInputText(part.text) for part in message.content]


def _file(part: NamedFile) -> ResponseInputFile:
    file = part.file
    sources = {"file_id": file.file_id, "file_data": file.file_data, "file_url": part.url, "filename": file.filename}
    return ResponseInputFile(**{name: value for name, value in sources.items() if value is not None})
