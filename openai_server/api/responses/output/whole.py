"""Whole answers of `/v1/responses`. PURE."""

import codecs
from collections.abc import Iterator, Sequence

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.responses.output.output import Output
from openai_server.api.responses.output.state import INCOMPLETE, finished
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.core.answer import Answer, Choice
from openai_server.core.events import Content, Event, Finish, TokenLogprobs
from openai_server.core.logprobs import Logprobs
from openai_server.core.sealing import Seal
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.readers import reader_of


def response(
    identity: AnswerIdentity,
    answers: Sequence[Answer],
    request: ResponsesRequest,
    format: AnswerFormat | None,
    seal: Seal | None,
    now: float,
) -> WholeAnswer:
    """`answers` has one item with one choice. `now`: Unix seconds."""
    [answer] = answers
    [choice] = answer.choices
    output = Output(key_of(identity), request.tools, seal)
    reason = choice.finish_reason
    for event in events_of(choice, format):
        if isinstance(event, Finish):
            reason = event.reason
        else:
            output.take(event)
    output.end(is_complete=reason not in INCOMPLETE, may_be_empty=format is not None and format.must_call)
    content = finished(identity, request.settings_for(format), output.items, reason, answer.usage, now)
    return WholeAnswer(content, 1, [reason] if reason else [], answer.usage)


def key_of(identity: AnswerIdentity) -> str:
    """The part of the response's id that its items' ids contain."""
    return identity.id.rpartition("_")[2]


def events_of(choice: Choice, format: AnswerFormat | None) -> Iterator[Event]:
    """The events of a whole choice, with the log probabilities before those that they belong to."""
    reader = None if format is None else reader_of(format)
    for text, tokens in _pieces(choice.text, choice.logprobs):
        if tokens:
            yield TokenLogprobs(tokens)
        if reader is None:
            yield Content(text)
        else:
            yield from reader.read(text)
    if reader is not None:
        yield from reader.read("", choice.finish_reason, ended=True)


def _pieces(text: str, logprobs: Logprobs) -> Iterator[tuple[str, Logprobs]]:
    """The text in pieces, each with the log probabilities of its tokens. One piece for each token shows which tokens
    are reasoning or part of a call."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = text
    for token in logprobs:
        piece = decoder.decode(token.token)
        if not rest.startswith(piece):
            # A stop string may cut the text inside a token. Other tokens that it lacks are control tokens.
            piece = rest if piece.startswith(rest) else ""
        yield piece, [token]
        rest = rest[len(piece) :]
    if rest:
        yield rest, ()
