"""Reads the answers of a model that a mapping file describes. PURE.

No value is made up. A finish reason is derived only where the backend's counts show it, or, in a client's stream, from
a mark of the end; without either, and without counts, the answer has none.
"""

from collections.abc import Sequence

from msgspec import Struct

from openai_server.backends.dialects.mapping.logprobs import vllm_logprobs
from openai_server.backends.dialects.mapping.output_places import place_of
from openai_server.backends.dialects.mapping.outputs import Outputs, texts_of
from openai_server.backends.dialects.mapping.schema import Count, EndMark, Output, Reason, Text
from openai_server.backends.dialects.mapping.schema import Outputs as OutputPlaces
from openai_server.backends.dialects.mapping.text import ChoiceText
from openai_server.backends.dialects.response_tensors import bad_answer
from openai_server.core.errors import BackendError
from openai_server.core.rows import Row
from openai_server.core.timings import Progress
from openai_server.core.usage import PromptUsage, Usage
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferResponse

REASONS = frozenset({contract.FINISH_STOP, contract.FINISH_LENGTH, "content_filter"})
"""Finish reasons of the API. Other words of a backend count as a failure unless its mapping file lists them."""


class ReadOptions(Struct, frozen=True, kw_only=True):
    """Values of the request that its reader needs."""

    n: int
    """Number of choices."""
    prompt: str
    """Empty if it was not a text."""
    echoes: bool
    """Whether each choice begins with the prompt."""
    stops: tuple[str, ...]
    token_limit: int | None
    n_top: int
    """Number of likeliest tokens to list at each position."""
    is_unary: bool
    """Whether the answer is one response."""
    is_cumulative: bool
    """Whether each response of a stream has the whole text so far."""
    streams: bool
    """Whether the client gets a stream."""


class _Choice:
    __slots__ = ("has_begun", "is_finished", "is_over", "n_tokens", "reason", "text")

    def __init__(self, text: ChoiceText) -> None:
        self.text = text
        self.has_begun = False
        """Whether the backend has sent a text, which may be empty."""
        self.is_finished = False
        """Whether the backend has reported its end."""
        self.reason: str | None = None
        self.is_over = False
        """Whether the reason was passed on."""
        self.n_tokens: int | None = None
        """None: not reported."""


class MappedReader:
    """`end` is how the backend marks the end of a stream."""

    timings = None

    def __init__(self, places: OutputPlaces, end: str | EndMark, options: ReadOptions) -> None:
        self._places = places
        self._end = end
        self._options = options
        self._text: Text = place_of(places.text, Text)
        self._reason = place_of(places.finish_reason, Reason) if places.finish_reason != "counts" else None
        self._error: Output | None = place_of(places.error, Output)
        self._logprobs: Output | None = Output(tensor=places.logprobs.tensor) if places.logprobs else None
        self._completion: Count | None = place_of(places.completion_tokens, Count)
        counts = {"prompt_tokens": places.prompt_tokens, "cached_tokens": places.cached_tokens}
        self._prompt_counts: dict[str, Count] = {
            name: place_of(place, Count) for name, place in counts.items() if place is not None
        }
        prompt = options.prompt.encode() if self._text.has_prompt else b""
        stops = [stop.encode() for stop in options.stops if stop] if self._text.keeps_stop else []
        self._mark = end.text.encode() if isinstance(end, EndMark) and end.text else b""
        is_cumulative = options.is_cumulative and not options.is_unary
        self._choices = [
            _Choice(ChoiceText(prompt, stops, is_cumulative=is_cumulative, mark=self._mark)) for _ in range(options.n)
        ]
        self._unopened = set(range(options.n)) if options.echoes else set()
        """Choices that need the prompt before their text."""
        self._is_ended = False
        """Whether the backend has marked its end."""
        self._is_read = False
        """Whether the responses have ended."""
        self._counts: dict[str, int] = {}
        """Tokens of the prompt, by the name of the output."""

    # ---- AnswerReader

    def read(self, response: ModelInferResponse) -> list[Row]:
        """Raises BackendError."""
        if contract.PARAM_FINAL in response.parameters:
            self._is_ended |= response.parameters[contract.PARAM_FINAL].bool_param
        if not response.outputs:
            return []
        outputs = Outputs(response)
        self._check_error(outputs)
        texts = self._texts(outputs)
        if isinstance(self._end, EndMark) and self._end.tensor and any(outputs.elements(self._end.tensor)):
            self._is_ended = True
        reasons = texts_of(outputs, self._reason) if self._reason is not None else None
        indexes = self._indexes(outputs, len(texts or reasons or ()))
        self._count(outputs, indexes)
        logprobs = self._logprob_texts(outputs)
        rows: list[Row] = []
        for position, index in enumerate(indexes):
            choice = self._choices[index]
            delta = self._add(choice, texts[position] if texts else None)
            if choice.is_over:
                continue
            if reasons and position < len(reasons):
                self._take_reason(choice, (reasons[position] or b"").decode(errors="replace"))
            entries = vllm_logprobs(logprobs[position], self._options.n_top) if position < len(logprobs) else []
            if choice.is_finished:
                delta += choice.text.end()
            if choice.text.is_stopped:
                choice.is_finished, choice.reason = True, choice.reason or contract.FINISH_STOP
            reason = choice.reason if choice.is_finished and not self._needs_counts else None
            if delta or entries or reason:
                rows.append((index, self._opening(index) + delta, reason, entries))
                choice.is_over = reason is not None
        return rows

    def end(self) -> list[Row]:
        """Raises BackendError."""
        n_begun = sum(choice.has_begun for choice in self._choices)
        if n_begun < len(self._choices):
            n = len(self._choices)
            raise bad_answer(f"sent {n_begun} choices, but {n} were requested" if n_begun else "sent no text")
        if not (self._options.is_unary or self.is_complete or self._has_ended()):
            raise bad_answer("ended the stream early")
        rows: list[Row] = []
        self._is_read = True
        for index, choice in enumerate(self._choices):
            if choice.is_over:
                continue
            rest = b"" if choice.is_finished and not self._needs_counts else choice.text.end()
            reason = self._last_reason(choice)
            rest = self._opening(index) + rest
            if rest or reason:
                rows.append((index, rest, reason, ()))
        return rows

    @property
    def prompt_usage(self) -> PromptUsage | None:
        prompt = self._counts.get("prompt_tokens")
        return None if prompt is None else PromptUsage(prompt, self._counts.get("cached_tokens"))

    @property
    def usage(self) -> Usage | None:
        prompt, counts = self.prompt_usage, [choice.n_tokens for choice in self._choices]
        known = [count for count in counts if count is not None]
        if prompt is None or not known or not self._is_read:
            return None
        return Usage(prompt.prompt, sum(known), prompt.cached)

    @property
    def is_complete(self) -> bool:
        """Whether the backend has nothing more to send for the answer."""
        expects_counts = self._prompt_counts or self._completion is not None
        return self._is_ended or (not expects_counts and all(choice.is_finished for choice in self._choices))

    def take_progress(self) -> Sequence[Progress]:
        return ()

    # ---- Parts of a response

    @property
    def _needs_counts(self) -> bool:
        """Whether finish reasons follow from counts, which are known at the end."""
        return self._places.finish_reason == "counts"

    def _check_error(self, outputs: Outputs) -> None:
        texts = texts_of(outputs, self._error) if self._error is not None else None
        if found := [text for text in texts or () if text]:
            raise BackendError("UNKNOWN", found[0].decode(errors="replace"))

    def _texts(self, outputs: Outputs) -> list[bytes | None] | None:
        """The texts of the choices, of which any may be absent; None: of all."""
        texts = texts_of(outputs, self._text, self._mark)
        if self._options.is_unary and texts and None in texts:
            raise bad_answer(f"sent a malformed answer: it has no '{self._text.json}' in the JSON with the text")
        return texts

    def _add(self, choice: _Choice, text: bytes | None) -> bytes:
        """Adds a text of the backend to the choice. Returns what to pass on."""
        choice.has_begun |= text is not None
        delta = choice.text.add(text) if text else b""
        self._is_ended |= choice.text.is_marked
        if choice.text.exceeds_mark or (delta and choice.is_finished):
            raise bad_answer("sent text after the end of a choice")
        return delta

    def _indexes(self, outputs: Outputs, k: int) -> list[int]:
        """The choice of each of `k` texts."""
        numbers = outputs.numbers(Count(tensor=self._places.index)) if self._places.index else []
        numbers = numbers or list(range(k))
        if k and len(numbers) != k:
            raise bad_answer(f"sent {len(numbers)} choices for {k} texts")
        for number in numbers:
            if not 0 <= number < self._options.n:
                raise bad_answer(f"sent choice {number} of {self._options.n}")
        return numbers

    def _count(self, outputs: Outputs, indexes: Sequence[int]) -> None:
        for name, place in self._prompt_counts.items():
            if counts := outputs.numbers(place):
                self._counts[name] = counts[0]
        if self._completion is None or not (counts := outputs.numbers(self._completion)):
            return
        if len(counts) != len(indexes):
            indexes = range(min(len(counts), self._options.n))
        for index, count in zip(indexes, counts, strict=False):
            choice = self._choices[index]
            before = choice.n_tokens or 0 if self._completion.delta and not self._options.is_unary else 0
            choice.n_tokens = before + count

    def _logprob_texts(self, outputs: Outputs) -> list[bytes]:
        texts = texts_of(outputs, self._logprobs) if self._logprobs is not None else None
        return [text or b"" for text in texts or ()]

    def _take_reason(self, choice: _Choice, word: str) -> None:
        assert self._reason is not None
        if word in self._reason.none or choice.is_finished:
            return
        reason = self._reason.map.get(word, word)
        if reason and reason not in REASONS:
            raise bad_answer(f"ended the answer for the reason '{word}'")
        choice.is_finished, choice.reason = True, reason or None

    def _opening(self, index: int) -> bytes:
        """The prompt, once, if the client wants it before the choice."""
        if index not in self._unopened:
            return b""
        self._unopened.discard(index)
        return self._options.prompt.encode()

    # ---- The end

    def _has_ended(self) -> bool:
        if self._end == "rpc":
            return self._reason is None or all(choice.is_finished for choice in self._choices)
        return self._is_ended or (self._reason is not None and all(choice.is_finished for choice in self._choices))

    def _last_reason(self, choice: _Choice) -> str | None:
        """The reason that was not sent with a row; None if there is none."""
        if self._needs_counts:
            limit, n_tokens = self._options.token_limit, choice.n_tokens
            if choice.text.is_stopped:
                return contract.FINISH_STOP
            if n_tokens is not None:
                return contract.FINISH_LENGTH if limit is not None and n_tokens >= limit else contract.FINISH_STOP
        elif choice.is_finished:
            return choice.reason
        elif choice.text.is_stopped:
            return contract.FINISH_STOP
        return contract.FINISH_STOP if self._options.streams and self._is_ended else None
