"""The answers whose output is a summary: of `/v1/responses/compact`, and of `/v1/responses` with a trigger. PURE."""

from collections.abc import Callable, Sequence

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.responses.answer import CompactedResponse, ResponseCompaction, ResponseUserMessage
from openai_server.api.responses.output.failure import failure_events
from openai_server.api.responses.output.state import finished, in_progress, usage
from openai_server.api.responses.output.stream_events import (
    OutputItemAdded,
    OutputItemDone,
    ResponseCompacting,
    ResponseCompleted,
    ResponseCreated,
    ResponseInProgress,
    StreamEvent,
    encoded,
)
from openai_server.api.responses.output.summary import summary_id, summary_item, user_messages
from openai_server.api.responses.output.whole import events_of, key_of
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.stream_writer import StreamWriter
from openai_server.core.answer import Answer
from openai_server.core.errors import APIError
from openai_server.core.events import Content, Event
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from openai_server.http import sse
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
        *user_messages(key_of(identity), request.user_texts),
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


class CompactionWriter(StreamWriter):
    """Writes the stream of a response whose output is a summary. `clock` gives Unix seconds."""

    writes_text = False

    def __init__(
        self, identity: AnswerIdentity, request: ResponsesRequest, seal: Seal, clock: Callable[[], float]
    ) -> None:
        self._identity = identity
        self._settings = request.settings
        self._seal = seal
        self._clock = clock
        self._key = key_of(identity)
        self._n_events = 0
        self._pieces: list[str] = []

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        response = in_progress(self._identity, self._settings)
        item = ResponseCompaction(summary_id(self._key), "")
        return self._events(
            ResponseCreated(response=response),
            ResponseInProgress(response=response),
            OutputItemAdded(output_index=0, item=item),
        )

    def text(self, index: int, text: str) -> bytes:
        return self.write(index, (Content(text),))

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        data = b""
        for event in events:
            if isinstance(event, Content):
                if not len(self._pieces) % PIECES_PER_EVENT:
                    data += self._events(ResponseCompacting(item_id=summary_id(self._key), output_index=0))
                self._pieces.append(event.text)
        return data

    def end(self, used: Usage | None) -> bytes:
        """Raises APIError for an empty summary."""
        item = summary_item(self._key, self._pieces, self._seal)
        response = finished(self._identity, self._settings, [item], None, used, self._clock())
        done = self._events(OutputItemDone(output_index=0, item=item), ResponseCompleted(response=response))
        return done + sse.DONE

    def failure(self, error: APIError) -> bytes:
        data = b"" if self._n_events else self.begin(1, None)
        return data + self._events(*failure_events(self._identity, self._settings, (), error)) + sse.DONE

    def _events(self, *events: StreamEvent) -> bytes:
        return b"".join(map(self._event, events))

    def _event(self, event: StreamEvent) -> bytes:
        event.sequence_number = self._n_events
        self._n_events += 1
        return encoded(event)
