"""A whole answer that is collected from the rows of a stream. PURE."""

from collections.abc import Iterable

from openai_server.core.answer import Answer, Choice
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.rows import ChoiceDecoders, Row
from openai_server.core.timings import Timings
from openai_server.core.usage import Usage
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.readers import reader_of


class CollectedAnswer:
    """The answer to one prompt. A choice ends with its finish reason, or at a call that repeats the one before it.
    `format`: how to parse the text, to find such a call; None keeps all of it."""

    def __init__(self, n_choices: int, format: AnswerFormat | None) -> None:
        self._decoders = ChoiceDecoders(n_choices)
        self._readers = [reader_of(format) for _ in range(n_choices)] if format else None
        self._choices = [Choice(index, "", None) for index in range(n_choices)]
        self._texts: list[list[str]] = [[] for _ in range(n_choices)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(n_choices)]
        self._open = set(range(n_choices))

    @property
    def is_cut_off(self) -> bool:
        """Whether all choices have ended, and one of them before the backend ended it."""
        return not self._open and any(reader.is_cut_off for reader in self._readers or ())

    def take(self, rows: Iterable[Row]) -> None:
        for index, token, reason, logprobs in rows:
            if index not in self._open:
                continue
            text = self._decoders.text(index, token, reason is not None)
            choice = self._choices[index]
            self._texts[index].append(text)
            self._logprobs[index] += logprobs
            choice.finish_reason = reason
            if self._readers is not None:
                self._readers[index].read(text, reason)
            if reason is not None or (self._readers is not None and self._readers[index].is_cut_off):
                self._open.discard(index)

    def answer(self, usage: Usage | None, timings: Timings | None) -> Answer:
        for choice, texts, logprobs in zip(self._choices, self._texts, self._logprobs, strict=True):
            choice.text, choice.logprobs = "".join(texts), logprobs
        return Answer(self._choices, usage, timings)
