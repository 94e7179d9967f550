"""The answers whose output is a summary: of `/v1/responses/compact`, and of `/v1/responses` with a trigger. PURE."""

from collections.abc import Callable, Iterable, Sequence

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.responses.answer import (
    CompactedResponse,
    ResponseCompaction,
    ResponseItem,
    ResponseObject,
    ResponseUserMessage,
)
from openai_server.api.responses.output.response_stream import ResponseStream
from openai_server.api.responses.output.state import finished, usage
from openai_server.api.responses.output.stream_events import (
    OutputItemAdded,
    OutputItemDone,
    ResponseCompacting,
    StreamEvent,
)
from openai_server.api.responses.output.summary import summary_id, summary_item, user_messages
from openai_server.api.responses.output.whole import events_of, key_of
from openai_server.api.responses.settings import ResponsesRequest, Settings
from openai_server.core.answer import Answer
from openai_server.core.events import Content, Event
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from openai_server.parsing.choice_reader import AnswerFormat

PIECES_PER_EVENT = 16
"""Pieces of the summary after which a stream has another event, so that the client sees that it goes on."""


def compacted(
    identity: AnswerIdentity,
    answers: Sequence[Answer],
    request: ResponsesRequest,
    format: AnswerFormat | None,
    seal: Seal,
) -> WholeAnswer:
    """The answer of `/v1/responses/compact`. Raises APIError for an empty summary."""
    item, answer = _item(identity, answers, format, seal)
    output: list[ResponseUserMessage | ResponseCompaction] = [
        *user_messages(key_of(identity), request.user_messages),
        item,
    ]
    content = CompactedResponse(id=identity.id, created_at=identity.created, output=output, usage=usage(answer.usage))
    return _whole(content, answer)


def response_with_summary(
    identity: AnswerIdentity,
    answers: Sequence[Answer],
    request: ResponsesRequest,
    format: AnswerFormat | None,
    seal: Seal,
    now: float,
) -> WholeAnswer:
    """The response to a request that ends with a trigger. `now`: Unix seconds. Raises APIError for an empty summary."""
    item, answer = _item(identity, answers, format, seal)
    return _whole(finished(identity, request.settings, [item], None, answer.usage, now), answer)


def _item(
    identity: AnswerIdentity, answers: Sequence[Answer], format: AnswerFormat | None, seal: Seal
) -> tuple[ResponseCompaction, Answer]:
    [answer] = answers
    pieces = (event.text for event in events_of(answer.choices[0], format) if isinstance(event, Content))
    return summary_item(key_of(identity), pieces, seal), answer


def _whole(content: object, answer: Answer) -> WholeAnswer:
    reason = answer.choices[0].finish_reason
    return WholeAnswer(content, 1, [reason] if reason else [], answer.usage)  # type: ignore[arg-type]


class CompactionWriter(ResponseStream):
    """Writes the stream of a response whose output is a summary. `clock` gives Unix seconds."""

    writes_text = False

    def __init__(self, identity: AnswerIdentity, settings: Settings, seal: Seal, clock: Callable[[], float]) -> None:
        super().__init__(identity, settings, clock)
        self._seal = seal
        self._key = key_of(identity)
        self._pieces: list[str] = []

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        item = ResponseCompaction(summary_id(self._key), "")
        return super().begin(n_choices, prompt) + self._events((OutputItemAdded(output_index=0, item=item),))

    def text(self, index: int, text: str) -> bytes:
        return self.write(index, (Content(text),))

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        data = b""
        for event in events:
            if isinstance(event, Content):
                if not len(self._pieces) % PIECES_PER_EVENT:
                    data += self._events((ResponseCompacting(item_id=summary_id(self._key), output_index=0),))
                self._pieces.append(event.text)
        return data

    def _closed(self, used: Usage | None) -> tuple[Iterable[StreamEvent], ResponseObject]:
        """Raises APIError for an empty summary."""
        item = summary_item(self._key, self._pieces, self._seal)
        response = finished(self._identity, self._settings, [item], None, used, self._clock())
        return (OutputItemDone(output_index=0, item=item),), response

    def _complete_items(self) -> Sequence[ResponseItem]:
        return ()

    def _all_items(self) -> Sequence[ResponseItem]:
        return ()
