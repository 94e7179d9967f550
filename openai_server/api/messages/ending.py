"""The parts of an answer that follow from its end: stop reason, token counts and signatures. PURE."""

import hashlib
from base64 import b64encode

from openai_server.api.messages.answer import (
    AnthropicMessage,
    CacheCreation,
    ContentBlock,
    DeltaUsage,
    MessageUsage,
    OutputTokensDetails,
    StopDelta,
    StopDetails,
    StopReason,
)
from openai_server.api.messages.schema import MessagesTurn
from openai_server.core.events import CallBegun, Event, Finish, Refusal
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from protos import contract

NO_USAGE = Usage(0, 0, None)
"""Stands for the counts of a backend that doesn't count."""


class Ending:
    """Collects from the events of an answer why it ended."""

    __slots__ = ("_calls", "_reason", "_refuses", "_request", "_stop")

    def __init__(self, request: MessagesTurn) -> None:
        self._request = request
        self._reason: str | None = None
        self._stop: str | None = None
        self._calls = self._refuses = False

    def note(self, event: Event) -> None:
        if isinstance(event, Finish):
            self._reason = event.reason
            self._stop = event.stop if event.stop in self._request.stop_sequences else None
        elif isinstance(event, CallBegun):
            self._calls = True
        elif isinstance(event, Refusal):
            self._refuses = True

    def delta(self, used: Usage | None) -> StopDelta:
        """`used`: the token counts; None if the backend doesn't count."""
        details = StopDetails() if self._refuses else None
        return StopDelta(self._stop_reason(used), self._stop, details, None)

    def _stop_reason(self, used: Usage | None) -> StopReason:
        if self._reason == contract.FINISH_LENGTH:
            # The backend ends a choice earlier than at the client's limit only if the context is full.
            limit = self._request.turn.token_limit
            is_full = used is not None and limit is not None and used.completion < limit
            return "model_context_window_exceeded" if is_full else "max_tokens"
        if self._refuses or self._reason == contract.FINISH_CONTENT_FILTER:
            return "refusal"
        if self._stop is not None:
            return "stop_sequence"
        return "tool_use" if self._calls else "end_turn"


def delta_usage(used: Usage | None) -> DeltaUsage:
    used = used or NO_USAGE
    return DeltaUsage(
        input_tokens=used.prompt - (used.cached or 0),
        cache_read_input_tokens=used.cached,
        output_tokens=used.completion,
        output_tokens_details=None if used.marked is None else OutputTokensDetails(used.marked),
    )


def message_usage(used: Usage | None, *, is_batched: bool = False) -> MessageUsage:
    """The usage of a whole answer, or at the start of a stream."""
    used = used or NO_USAGE
    return MessageUsage(
        input_tokens=used.prompt - (used.cached or 0),
        cache_read_input_tokens=used.cached,
        output_tokens=used.completion,
        output_tokens_details=None if used.marked is None else OutputTokensDetails(used.marked),
        cache_creation=CacheCreation(),
        service_tier="batch" if is_batched else "standard",
    )


def message(
    id: str, model: str, content: list[ContentBlock], stop: StopDelta | None, usage: MessageUsage
) -> AnthropicMessage:
    """`stop` is None at the start of a stream."""
    if stop is None:
        return AnthropicMessage(id, "assistant", model, content, None, None, None, None, usage)
    reason, sequence, details = stop.stop_reason, stop.stop_sequence, stop.stop_details
    return AnthropicMessage(id, "assistant", model, content, reason, sequence, details, None, usage)


class Signature:
    """The signature of one block with reasoning, which clients send back with the block. It is a digest of the text.
    With `seal`, for a client that omits the text, it is the sealed text. It is not checked whether it fits to the text
    of a block: a client may change its own conversation."""

    def __init__(self, seal: Seal | None) -> None:
        self._seal = seal
        self._parts: list[str] = []

    def add(self, text: str) -> None:
        self._parts.append(text)

    @property
    def text(self) -> str:
        text = "".join(self._parts)
        if self._seal is not None:
            return self._seal(text)
        return b64encode(hashlib.sha256(text.encode(errors="surrogatepass")).digest()).decode()


def tool_use_id(id: str) -> str:
    """The id with Anthropic's prefix, unless the model wrote the id itself."""
    return f"toolu_{id.removeprefix('call_')}" if id.startswith("call_") else id
