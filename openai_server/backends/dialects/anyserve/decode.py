"""Decodes tensors to answers, and to the rows of a stream.

PURE. Reads both forms of the protocol (typed and raw), and ignores tensors that are not in the contract. No value is
made up: without token counts from the backend an answer has no usage, without finish reasons it has no finish_reason.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from openai_server.backends.dialects.response_tensors import ResponseTensors, bad_answer
from openai_server.core.answer import Answer, Choice
from openai_server.core.errors import BackendError
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.rows import Row
from openai_server.core.timings import Progress, Timings
from openai_server.core.usage import PromptUsage, Usage
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferResponse, ModelStreamInferResponse

_UNFINISHED = ("", contract.NOT_FINISHED)
_REASONS = (contract.FINISH_STOP, contract.FINISH_LENGTH, "content_filter", "tool_calls")
"""Finish reasons of the API."""
T = TypeVar("T")


def answer(response: ModelInferResponse, n: int) -> Answer:
    """A unary answer. Raises BackendError, also if it doesn't have `n` choices."""
    outputs = Outputs(response)
    texts = outputs.texts(contract.TEXT)
    if len(texts) != n:
        raise bad_answer(f"sent {len(texts)} choices, but {n} were requested")
    reasons = outputs.column(outputs.texts(contract.FINISH_REASON), n, contract.FINISH_REASON)
    if unknown := [reason for reason in reasons if reason not in (*_REASONS, *_UNFINISHED)]:
        raise bad_answer(f"ended the answer for the reason '{unknown[0]}'")
    logprobs = outputs.logprobs()
    choices = [
        Choice(i, text, None if reason in _UNFINISHED else reason, logprobs.get(i, ()))
        for i, (text, reason) in enumerate(zip(texts, reasons or [""] * n, strict=True))
    ]
    counts = outputs.column(outputs.elements(contract.COMPLETION_TOKENS), n, contract.COMPLETION_TOKENS)
    prompt, cached = outputs.first(contract.PROMPT_TOKENS), outputs.first(contract.CACHED_TOKENS)
    marked = outputs.column(outputs.elements(contract.MARKED_TOKENS), n, contract.MARKED_TOKENS)
    usage = None
    if prompt is not None and counts:
        usage = Usage(prompt, sum(counts), cached, sum(marked) if marked else None)
    return Answer(choices, usage, _timings(usage, n, *outputs.times()))


# ---- Other tasks. All raise BackendError if the response has no valid result.


def embedding(response: ModelInferResponse) -> tuple[Sequence[float], int | None]:
    """The vector, and the number of the prompt's tokens (None: not reported)."""
    outputs = Outputs(response)
    return outputs.required(contract.EMBEDDING), outputs.first(contract.PROMPT_TOKENS)


def score(response: ModelInferResponse) -> tuple[float, int | None]:
    """The score, and the number of tokens (None: not reported)."""
    outputs = Outputs(response)
    return outputs.required(contract.SCORE)[0], outputs.first(contract.PROMPT_TOKENS)


def tokens(response: ModelInferResponse) -> tuple[Sequence[int], Sequence[bytes]]:
    """The token ids of a text, and the text of each token if the backend sends it. Both may be empty."""
    outputs = Outputs(response)
    ids = outputs.elements(contract.TOKEN_IDS)
    return ids, outputs.column(outputs.elements(contract.TOKEN_PIECES), len(ids), contract.TOKEN_PIECES)


def length(response: ModelInferResponse) -> tuple[int, bytes]:
    """The number of a text's tokens, and the text of the first one; empty if there is none or the backend sends no
    texts."""
    ids, pieces = tokens(response)
    return len(ids), pieces[0] if pieces else b""


def text(response: ModelInferResponse) -> str:
    return str(Outputs(response).required(contract.WHOLE_TEXT)[0].decode(errors="replace"))


# ---- A stream of one request


class StreamReader:
    """Reads the responses to one prompt, one after the other, as rows of its `n` choices. `derives_stop`: whether the
    backend's mark of the end is the finish reason `stop` if it reports no reasons."""

    def __init__(self, n: int, *, derives_stop: bool = False) -> None:
        self._n = n
        self._derives_stop = derives_stop
        self._unfinished = set(range(n))
        self._has_reasons = False
        """Whether the backend reports finish reasons."""
        self._marks_end = False
        """Whether the backend marks the last response."""
        self._is_final = False
        """Whether the backend has marked a response as the last one."""
        self._is_whole = False
        """Whether a response was a whole answer."""
        self._prompt: int | None = None
        self._cached: int | None = None
        self._times: tuple[float | None, float | None] = None, None
        self._progress: list[tuple[int, float]] = []
        """Tokens that were ready, and milliseconds."""
        self._completion: dict[int, int] = {}
        self._marked: dict[int, int] = {}

    def read(self, response: ModelInferResponse) -> list[Row]:
        """The rows in the response. Raises BackendError."""
        if contract.PARAM_FINAL in response.parameters:
            self._marks_end = True
            self._is_final |= response.parameters[contract.PARAM_FINAL].bool_param
        if not response.outputs:
            return []
        outputs = Outputs(response)
        tokens = outputs.elements(contract.TOKEN)
        k = len(tokens)
        if not k and (tokens := outputs.elements(contract.TEXT)):  # a model that answers a stream with a whole answer
            k, self._is_whole = len(tokens), True
            indexes: Sequence[int] = range(k)
        else:
            indexes = outputs.column(outputs.elements(contract.INDEX), k, contract.INDEX) or [0] * k
        reasons = outputs.column(outputs.texts(contract.FINISH_REASON), k, contract.FINISH_REASON)
        self._has_reasons |= bool(reasons)
        self._count(outputs, indexes)

        logprobs = outputs.logprobs()
        rows: list[Row] = []
        for token, index, reason in zip(tokens, indexes, reasons or [""] * k, strict=True):
            if not 0 <= index < self._n:
                raise no_such_choice(index, self._n)
            finished = reason not in _UNFINISHED
            if finished:
                self._unfinished.discard(index)
                if reason not in _REASONS:
                    raise bad_answer(f"ended the answer for the reason '{reason}'")
            rows.append((index, token, reason if finished else None, logprobs.get(index, ())))
        return rows

    def end(self) -> list[Row]:
        """The last rows, which only finish choices. Must be called when the stream has ended.

        Raises BackendError if the answer is incomplete.
        """
        if self._unfinished and (self._has_reasons or not (self._is_final or (self._is_whole and not self._marks_end))):
            raise bad_answer("ended the stream early")
        if self._derives_stop and self._is_final:
            return [(index, b"", contract.FINISH_STOP, ()) for index in sorted(self._unfinished)]
        return []

    @property
    def is_complete(self) -> bool:
        """Whether the backend has marked the end: a server may keep the stream open."""
        return self._is_final and not (self._unfinished and self._has_reasons)

    @property
    def timings(self) -> Timings | None:
        return _timings(self.usage, len(self._completion), *self._times) if self._times[0] is not None else None

    def take_progress(self) -> list[Progress]:
        total, cached = self._prompt, self._cached
        progress, self._progress = self._progress, []
        return [] if total is None else [Progress(total, cached, *step) for step in progress]

    @property
    def prompt_usage(self) -> PromptUsage | None:
        return None if self._prompt is None else PromptUsage(self._prompt, self._cached)

    @property
    def usage(self) -> Usage | None:
        if self._prompt is None or not self._completion:
            return None
        marked = sum(self._marked.values()) if self._marked else None
        return Usage(self._prompt, sum(self._completion.values()), self._cached, marked)

    def _count(self, outputs: "Outputs", indexes: Sequence[int]) -> None:
        counts = outputs.elements(contract.COMPLETION_TOKENS)
        if counts:
            counts = outputs.column(counts, len(indexes), contract.COMPLETION_TOKENS)
            self._completion.update(zip(indexes, counts, strict=True))
        if marked := outputs.elements(contract.MARKED_TOKENS):
            marked = outputs.column(marked, len(indexes), contract.MARKED_TOKENS)
            self._marked.update(zip(indexes, marked, strict=True))
        if prompt := outputs.elements(contract.PROMPT_TOKENS):
            self._prompt = prompt[0]
        if cached := outputs.elements(contract.CACHED_TOKENS):
            self._cached = cached[0]
        if (times := outputs.times())[0] is not None:
            self._times = times
        if steps := outputs.elements(contract.PROGRESS_TOKENS):
            times_of_steps = outputs.column(outputs.durations(contract.PROGRESS_MS), len(steps), contract.PROGRESS_MS)
            self._progress += zip(steps, times_of_steps, strict=False)


def _timings(usage: Usage | None, n_begun: int, prompt_ms: float | None, completion_ms: float | None) -> Timings | None:
    if usage is None or prompt_ms is None or completion_ms is None:
        return None
    return Timings(usage, n_begun, prompt_ms, completion_ms)


def status_of(message: str) -> str:
    """The status of an error in a stream that has none. Triton sends only a message."""
    return "NOT_FOUND" if "Request for unknown model" in message else "UNKNOWN"


def stream_error(response: ModelStreamInferResponse) -> BackendError:
    """The error of one request. A stream has no status for it: the status is in the parameters, or UNKNOWN."""
    details = {key: value.string_param for key, value in response.infer_response.parameters.items()}
    status = details.get(contract.ERROR_STATUS) or status_of(response.error_message)
    return BackendError(status, response.error_message, details)


# ---- Step batches


class ChoiceEnd(NamedTuple):
    """Finish reason and token counts of a choice that has ended in a step batch."""

    reason: str
    prompt: int
    cached: int
    completion: int
    marked: int = -1
    """-1 if marked tokens were not requested."""


class StepBatch(NamedTuple):
    """The output that a step added to many requests."""

    rows: Iterable[tuple[int, bytes, int, ChoiceEnd | None]]
    """Number of the request, added text, number of the choice, and its end (None: it continues)."""
    prompts: Iterable[tuple[int, int, int]] | None
    """Number of the request, tokens of its prompt, and those from the cache, for each row. None: no row begins or ends
    its choice."""


def step_batch(response: ModelInferResponse) -> StepBatch:
    """The contents of a step batch. Raises BackendError."""
    # This runs once a step for all requests, so it doesn't check what the contract fixes (form, datatypes, shapes).
    # Contents in the wrong field count as missing.
    columns = {output.name: output.contents for output in response.outputs}
    k = -1

    def column(spec: TensorSpec) -> Sequence[Any]:
        contents = columns.get(spec.name)
        elements: Sequence[Any] = ()
        if contents is not None:
            elements = contents.bytes_contents if spec.datatype == tensors.BYTES else contents.int_contents
        if k not in (-1, len(elements)):
            raise bad_answer(f"sent {len(elements)} elements of '{spec.name}' for {k} rows")
        return list(elements)

    requests = column(contract.REQUEST)
    k = len(requests)
    tokens, indexes = column(contract.ROW_TOKEN), column(contract.ROW_INDEX)
    ends: list[ChoiceEnd | None] = [None] * k
    counts: Iterable[tuple[int, int, int]] | None = None
    has_ends = contract.ROW_FINISH_REASON.name in columns
    if has_ends or contract.ROW_PROMPT_TOKENS.name in columns:
        prompts, cached = column(contract.ROW_PROMPT_TOKENS), column(contract.ROW_CACHED_TOKENS)
        counts = zip(requests, prompts, cached, strict=True)
    if has_ends:
        reasons, completions = column(contract.ROW_FINISH_REASON), column(contract.ROW_COMPLETION_TOKENS)
        marked = column(contract.ROW_MARKED_TOKENS) if contract.ROW_MARKED_TOKENS.name in columns else [-1] * k
        for i, reason in enumerate(reasons):
            if reason not in _UNFINISHED_BYTES:
                ends[i] = ChoiceEnd(reason.decode(errors="replace"), prompts[i], cached[i], completions[i], marked[i])
    return StepBatch(zip(requests, tokens, indexes, ends, strict=True), counts)


_UNFINISHED_BYTES = tuple(word.encode() for word in _UNFINISHED)


# ---- Tensors


class Outputs(ResponseTensors):
    """The tensors of one response, by specification. An absent tensor is empty. All are columns, whose lengths must
    agree."""

    def elements(self, spec: TensorSpec) -> Sequence[Any]:
        output, raw = self._tensors.get(spec.name, (None, None))
        if output is None:
            return ()
        if output.datatype != spec.datatype and not _are_alike(output.datatype, spec.datatype):
            raise bad_answer(f"sent '{spec.name}' as {output.datatype}, not as {spec.datatype}")
        return self._decoded(output, raw)

    def required(self, spec: TensorSpec) -> Sequence[Any]:
        """The elements; at least one."""
        elements = self.elements(spec)
        if not elements:
            raise bad_answer(f"sent no '{spec.name}'")
        return elements

    def first(self, spec: TensorSpec) -> int | None:
        elements = self.elements(spec)
        return elements[0] if elements else None

    def times(self) -> tuple[float | None, float | None]:
        """Milliseconds of the prompt and of the completion."""
        prompt, completion = self.durations(contract.PROMPT_MS), self.durations(contract.COMPLETION_MS)
        return prompt[0] if prompt else None, completion[0] if completion else None

    def durations(self, spec: TensorSpec) -> Sequence[float]:
        """Raises BackendError for a value that is no duration."""
        elements = self.elements(spec)
        for element in elements:
            if not 0 <= element < math.inf:
                raise bad_answer(f"sent {element} as '{spec.name}'")
        return elements

    def texts(self, spec: TensorSpec) -> list[str]:
        return [element.decode(errors="replace") for element in self.elements(spec)]

    def logprobs(self) -> dict[int, list[TokenLogprob]]:
        """The log probabilities of each choice; empty if the backend sends none."""
        indexes = self.elements(contract.LOGPROB_INDEX)
        if not indexes:
            return {}
        k = len(indexes)
        tokens = self.column(self.elements(contract.LOGPROB_TOKEN), k, contract.LOGPROB_TOKEN)
        values = self.column(self.elements(contract.LOGPROB), k, contract.LOGPROB)
        tops, top_values = self.elements(contract.TOP_LOGPROB_TOKEN), self.elements(contract.TOP_LOGPROB)
        n_top, rest = divmod(len(tops), k)
        if rest or len(top_values) != len(tops) or not tokens or not values:
            raise bad_answer("sent log probabilities whose numbers of elements don't agree")
        by_choice: dict[int, list[TokenLogprob]] = {}
        for i, (index, token, value) in enumerate(zip(indexes, tokens, values, strict=True)):
            known = not math.isnan(value)
            row = slice(i * n_top, (i + 1) * n_top)
            top = list(zip(tops[row], top_values[row], strict=True)) if known else ()
            by_choice.setdefault(index, []).append(TokenLogprob(token, value if known else None, top))
        return by_choice

    def column(self, values: Sequence[T], length: int, spec: TensorSpec) -> Sequence[T]:
        """The values: none, or one for each of `length` choices. Raises BackendError for another number."""
        if values and len(values) != length:
            raise bad_answer(f"sent {len(values)} elements of '{spec.name}' for {length} choices")
        return values


def _are_alike(datatype: str, other: str) -> bool:
    """Whether both are integers, or both are floating-point numbers, of any size."""
    return any(datatype.startswith(kind) and other.startswith(kind) for kind in ("INT", "FP")) or (
        datatype.removeprefix("U").startswith("INT") and other.startswith("INT")
    )


def no_such_choice(index: int, n: int) -> BackendError:
    return bad_answer(f"sent choice {index} of {n}")
