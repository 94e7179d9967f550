import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.backends.dialects.anyserve.decode import ChoiceEnd, StreamReader, answer, step_batch
from openai_server.core.answer import Answer, Choice, best
from openai_server.core.errors import BackendError
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.rows import ChoiceDecoders
from openai_server.core.timings import Progress, Timings
from openai_server.core.usage import PromptUsage, Usage, total, total_prompt
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import InferTensorContents, ModelInferResponse
from tests.wire.fake_worker import last_token, message, token, whole


def stream_response(
    token: bytes, index: int | None = 0, reason: bytes | None = b"null", *, raw: bool = False
) -> ModelInferResponse:
    outputs: list[tuple[contract.TensorSpec, list[object]]] = [(contract.TOKEN, [token])]
    if index is not None:
        outputs.append((contract.INDEX, [index]))
    if reason is not None:
        outputs.append((contract.FINISH_REASON, [reason]))
    return message(*outputs, raw=raw)


# ---- Unary


NO_CONTENTS = ModelInferResponse.InferOutputTensor(name="text", datatype="BYTES", shape=[1])


def with_contents(contents: InferTensorContents) -> ModelInferResponse.InferOutputTensor:
    return ModelInferResponse.InferOutputTensor(name="text", datatype="BYTES", shape=[1], contents=contents)


@pytest.mark.parametrize("raw", [False, True])
def test_an_answer_is_decoded_from_typed_and_raw_contents(raw: bool) -> None:
    response = message(
        (contract.TEXT, ["é".encode(), b"b"]),
        (contract.FINISH_REASON, [b"stop", b"length"]),
        (contract.PROMPT_TOKENS, [5]),
        (contract.CACHED_TOKENS, [4]),
        (contract.COMPLETION_TOKENS, [1, 2]),
        raw=raw,
    )
    decoded = answer(response, 2)
    assert decoded.choices == [Choice(0, "é", "stop"), Choice(1, "b", "length")]
    assert decoded.usage == Usage(5, 3, 4)


def test_values_that_a_backend_does_not_report_are_none() -> None:
    assert answer(message((contract.TEXT, [b"a"])), 1).usage is None
    assert answer(message((contract.TEXT, [b"a"])), 1).choices == [Choice(0, "a", None)]
    counts = (contract.PROMPT_TOKENS, [5]), (contract.COMPLETION_TOKENS, [1])
    assert answer(message((contract.TEXT, [b"a"]), *counts), 1).usage == Usage(5, 1, None)
    assert answer(message((contract.TEXT, [b"a"]), counts[0]), 1).usage is None


def test_unknown_tensors_are_ignored() -> None:
    stranger = contract.TensorSpec("logits", "FP16", (contract.ANY,), "")
    assert answer(message((contract.TEXT, [b"a"]), (stranger, [1.0]), raw=True), 1).choices[0].text == "a"


@pytest.mark.parametrize(
    "response",
    [
        message(),
        whole("a", "b"),
        message((contract.TEXT, [b"a"]), (contract.FINISH_REASON, [b"stop", b"stop"])),
        message((contract.TensorSpec("text", "INT32", (1,), ""), [1])),
        ModelInferResponse(raw_output_contents=[b"x"]),
        ModelInferResponse(outputs=[NO_CONTENTS], raw_output_contents=[b"\2\0\0\0a"]),
        ModelInferResponse(outputs=[NO_CONTENTS], raw_output_contents=[b"\1\0\0\0a", b""]),
        ModelInferResponse(outputs=[with_contents(InferTensorContents(int_contents=[1]))]),
    ],
)
def test_an_invalid_answer_is_a_backend_error(response: ModelInferResponse) -> None:
    with pytest.raises(BackendError) as caught:
        answer(response, 1)
    assert caught.value.status == "UNKNOWN"


def test_contents_in_a_wrong_field_are_named() -> None:
    output = with_contents(InferTensorContents(int_contents=[1]))
    with pytest.raises(BackendError, match="'text': BYTES belongs in 'bytes_contents', not in \\['int_contents'\\]"):
        answer(ModelInferResponse(outputs=[output]), 1)


def test_the_shape_of_an_output_is_ignored() -> None:
    """Backends of models with a batch dimension send [1, 1], others send no shape."""
    for shape in ([1], [1, 1], []):
        output = with_contents(InferTensorContents(bytes_contents=[b"a"]))
        output.shape[:] = shape
        assert answer(ModelInferResponse(outputs=[output]), 1).choices[0].text == "a"


def test_totals_are_none_where_a_count_is_unknown() -> None:
    assert total([Usage(1, 2, 3), Usage(4, 5, 6)]) == Usage(5, 7, 9)
    assert total([Usage(1, 2, 3), Usage(4, 5, None)]) == Usage(5, 7, None)
    assert total([Usage(1, 2, 3), None]) is None
    assert total_prompt([PromptUsage(1, 2), PromptUsage(3, 4)]) == PromptUsage(4, 6)
    assert total_prompt([PromptUsage(1, 2), PromptUsage(3, None)]) == PromptUsage(4, None)
    assert total_prompt([PromptUsage(1, 2), None]) is None


# ---- Streams


class StreamDecoder(StreamReader):
    """Decodes responses into the deltas that a client gets."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self._decoders = ChoiceDecoders(n)

    def feed(self, response: ModelInferResponse) -> list[Choice]:
        """Returns the deltas of a response."""
        choices = []
        for index, piece, reason, logprobs in self.read(response):
            text = self._decoders.text(index, piece, reason is not None)
            if text or reason is not None or logprobs:
                choices.append(Choice(index, text, reason, logprobs))
        return choices


@pytest.mark.parametrize("raw", [False, True])
def test_a_stream_is_decoded_until_its_finish_reason(raw: bool) -> None:
    decoder = StreamDecoder(1)
    assert decoder.feed(stream_response(b"a", raw=raw)) == [Choice(0, "a", None)]
    assert decoder.feed(stream_response(b"", raw=raw)) == []
    assert decoder.feed(last_token("b", reason="length")) == [Choice(0, "b", "length")]
    assert decoder.usage == Usage(3, 2, 1)
    decoder.end()


def test_usage_counts_each_choice_once() -> None:
    decoder = StreamDecoder(2)
    assert decoder.feed(last_token(index=1)) == [Choice(1, "", "stop")]
    assert decoder.usage == Usage(3, 2, 1)
    decoder.feed(last_token(index=0))
    assert decoder.usage == Usage(3, 4, 1)


def test_a_final_response_may_be_empty() -> None:
    decoder = StreamDecoder(1)
    decoder.feed(last_token("a", final=False))
    assert decoder.feed(message(final=True)) == []
    decoder.end()


@pytest.mark.parametrize("reason", [b"", b"null"])
def test_a_choice_is_unfinished_with_an_empty_or_null_reason(reason: bytes) -> None:
    decoder = StreamDecoder(1)
    assert decoder.feed(stream_response(b"a", reason=reason)) == [Choice(0, "a", None)]
    with pytest.raises(BackendError, match="ended the stream early"):
        decoder.end()


def test_index_and_finish_reason_are_optional_in_a_stream() -> None:
    decoder = StreamDecoder(1)
    assert decoder.feed(stream_response(b"a", index=None, reason=None)) == [Choice(0, "a", None)]
    with pytest.raises(BackendError):
        decoder.end()
    decoder.feed(message(final=True))
    decoder.end()


def test_the_final_flag_does_not_finish_a_choice_if_the_backend_sends_reasons() -> None:
    decoder = StreamDecoder(2)
    decoder.feed(last_token(index=0))
    with pytest.raises(BackendError):
        decoder.end()


@pytest.mark.parametrize("index", [-1, 1])
def test_an_unexpected_index_is_a_backend_error(index: int) -> None:
    with pytest.raises(BackendError):
        StreamDecoder(1).feed(token("a", index))


def test_a_wrong_number_of_counts_is_a_backend_error() -> None:
    with pytest.raises(BackendError):
        StreamDecoder(2).feed(message((contract.TOKEN, [b"a"]), (contract.COMPLETION_TOKENS, [1, 2])))


TEXT = "aé漢🙂"


@pytest.mark.parametrize("at", range(len(TEXT.encode()) + 1))
def test_a_character_split_at_any_byte_is_decoded_whole(at: int) -> None:
    data = TEXT.encode()
    decoder = StreamDecoder(1)
    parts = [decoder.feed(stream_response(data[:at])), decoder.feed(stream_response(data[at:], reason=b"stop"))]
    assert "".join(choice.text for part in parts for choice in part) == TEXT


@given(st.lists(st.binary(max_size=5), max_size=8))
def test_any_bytes_are_decoded_to_text(tokens: list[bytes]) -> None:
    decoder = StreamDecoder(1)
    deltas = [delta for token in tokens for delta in decoder.feed(stream_response(token))]
    deltas += decoder.feed(last_token())
    assert "".join(delta.text for delta in deltas) == b"".join(tokens).decode(errors="replace")


# ---- Step batches


def batch(*outputs: tuple[contract.TensorSpec, list[object]]) -> ModelInferResponse:
    texts = ((contract.REQUEST, [7, 5]), (contract.ROW_TOKEN, [b"a", b"b"]), (contract.ROW_INDEX, [0, 1]))
    return message(*texts, *outputs)


ENDS: list[tuple[contract.TensorSpec, list[object]]] = [
    (contract.ROW_FINISH_REASON, [b"null", b"stop"]),
    (contract.ROW_PROMPT_TOKENS, [1, 2]),
    (contract.ROW_CACHED_TOKENS, [0, 1]),
    (contract.ROW_COMPLETION_TOKENS, [3, 4]),
]


def test_a_step_batch_is_decoded_to_rows() -> None:
    assert list(step_batch(batch()).rows) == [(7, b"a", 0, None), (5, b"b", 1, None)]
    assert list(step_batch(batch(*ENDS)).rows) == [(7, b"a", 0, None), (5, b"b", 1, ChoiceEnd("stop", 2, 1, 4))]


def test_a_step_batch_with_a_beginning_has_the_counts_of_the_prompts() -> None:
    assert step_batch(batch()).prompts is None
    begun = step_batch(batch(*ENDS[1:3]))
    assert list(begun.prompts or ()) == [(7, 1, 0), (5, 2, 1)]
    assert list(begun.rows) == [(7, b"a", 0, None), (5, b"b", 1, None)]
    assert list(step_batch(batch(*ENDS)).prompts or ()) == [(7, 1, 0), (5, 2, 1)]


@pytest.mark.parametrize(
    "response",
    [
        token("a"),
        batch(ENDS[1]),
        batch(ENDS[1], (contract.ROW_CACHED_TOKENS, [1])),
        batch(*ENDS[:3]),
        batch((contract.ROW_FINISH_REASON, [b"stop"])),
        batch(*ENDS[:3], (contract.ROW_COMPLETION_TOKENS, [1])),
        message((contract.REQUEST, [1, 2]), (contract.ROW_TOKEN, [b"a"]), (contract.ROW_INDEX, [0])),
        message((contract.REQUEST, [1]), (contract.TensorSpec("token", "INT32", (1,), ""), [1]), (contract.INDEX, [0])),
    ],
)
def test_an_invalid_step_batch_is_a_backend_error(response: ModelInferResponse) -> None:
    with pytest.raises(BackendError):
        step_batch(response)


@pytest.mark.parametrize("raw", [False, True])
def test_a_stream_reports_the_counts_of_the_prompt_as_soon_as_they_arrive(raw: bool) -> None:
    reader = StreamReader(1)
    reader.read(token("a"))
    assert reader.prompt_usage is None
    begun = (contract.TOKEN, [b"b"]), (contract.PROMPT_TOKENS, [5]), (contract.CACHED_TOKENS, [2])
    reader.read(message(*begun, raw=raw))
    assert reader.prompt_usage == PromptUsage(5, 2)
    assert reader.usage is None
    uncached = StreamReader(1)
    uncached.read(message(*begun[:2], raw=raw))
    assert uncached.prompt_usage == PromptUsage(5, None)


TIMES: list[tuple[contract.TensorSpec, list[Any]]] = [(contract.PROMPT_MS, [2.5]), (contract.COMPLETION_MS, [7.5])]
COUNTS: list[tuple[contract.TensorSpec, list[Any]]] = [
    (contract.PROMPT_TOKENS, [5]),
    (contract.CACHED_TOKENS, [4]),
    (contract.COMPLETION_TOKENS, [1, 2]),
]


@pytest.mark.parametrize("raw", [False, True])
def test_an_answer_has_the_times_that_the_backend_reports(raw: bool) -> None:
    texts = (contract.TEXT, [b"a", b"b"])
    assert answer(message(texts, *COUNTS, *TIMES, raw=raw), 2).timings == Timings(Usage(5, 3, 4), 2, 2.5, 7.5)
    assert answer(message(texts, *COUNTS, raw=raw), 2).timings is None
    assert answer(message(texts, *COUNTS, TIMES[0], raw=raw), 2).timings is None
    assert answer(message(texts, *TIMES, raw=raw), 2).timings is None


def test_a_stream_has_its_times_so_far() -> None:
    reader = StreamReader(3)
    assert reader.timings is None
    first: list[Any] = [(contract.TOKEN, [b"a"]), (contract.INDEX, [1]), *COUNTS[:2], (contract.COMPLETION_TOKENS, [1])]
    reader.read(message(*first, (contract.PROMPT_MS, [2.5]), (contract.COMPLETION_MS, [0.0])))
    assert reader.timings == Timings(Usage(5, 1, 4), 1, 2.5, 0.0)
    both: list[Any] = [(contract.TOKEN, [b"a", b"b"]), (contract.INDEX, [0, 1]), *COUNTS]
    reader.read(message(*both, *TIMES))
    assert reader.timings == Timings(Usage(5, 3, 4), 2, 2.5, 7.5)


@pytest.mark.parametrize("raw", [False, True])
def test_a_stream_has_the_progress_of_its_prompt(raw: bool) -> None:
    reader = StreamReader(1)
    steps = (contract.PROGRESS_TOKENS, [4, 5]), (contract.PROGRESS_MS, [0.0, 1.5])
    assert reader.read(message(*COUNTS[:2], *steps, raw=raw)) == []
    assert reader.take_progress() == [Progress(5, 4, 4, 0.0), Progress(5, 4, 5, 1.5)]
    assert reader.take_progress() == []
    rows = reader.read(message((contract.TOKEN, [b"a"]), *COUNTS[:2], *steps, raw=raw))
    assert [row[:2] for row in rows] == [(0, b"a")]
    assert len(reader.take_progress()) == 2
    with pytest.raises(BackendError):
        reader.read(message(*COUNTS[:2], steps[0], (contract.PROGRESS_MS, [0.0]), raw=raw))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_time_that_is_no_duration_is_a_backend_error(value: float) -> None:
    with pytest.raises(BackendError):
        answer(message((contract.TEXT, [b"a"]), *COUNTS[:2], TIMES[0], (contract.COMPLETION_MS, [value])), 1)
    with pytest.raises(BackendError):
        StreamReader(1).read(message(*COUNTS[:2], (contract.PROGRESS_TOKENS, [1]), (contract.PROGRESS_MS, [value])))


def test_progress_without_the_tokens_of_the_prompt_is_unknown() -> None:
    reader = StreamReader(1)
    reader.read(message((contract.PROGRESS_TOKENS, [4]), (contract.PROGRESS_MS, [0.0])))
    assert reader.take_progress() == []


# ---- Log probabilities

LOGPROB_TENSORS: list[tuple[contract.TensorSpec, list[Any]]] = [
    (contract.LOGPROB_INDEX, [0, 0, 1]),
    (contract.LOGPROB_TOKEN, [b"a", b"b", b"c"]),
    (contract.LOGPROB, [math.nan, -1.0, -2.0]),
    (contract.TOP_LOGPROB_TOKEN, [b"", b"x", b"y"]),
    (contract.TOP_LOGPROB, [math.nan, -0.5, -0.25]),
]


def with_logprobs(*outputs: tuple[contract.TensorSpec, list[Any]]) -> ModelInferResponse:
    return message((contract.TEXT, [b"ab", b"c"]), *outputs)


def test_log_probabilities_are_assigned_to_their_choice() -> None:
    decoded = answer(with_logprobs(*LOGPROB_TENSORS), 2)
    assert [list(choice.logprobs) for choice in decoded.choices] == [
        [TokenLogprob(b"a", None, ()), TokenLogprob(b"b", -1.0, [(b"x", -0.5)])],
        [TokenLogprob(b"c", -2.0, [(b"y", -0.25)])],
    ]


@pytest.mark.parametrize("missing", range(1, 5))
def test_incomplete_log_probabilities_are_a_backend_error(missing: int) -> None:
    outputs = [output for i, output in enumerate(LOGPROB_TENSORS) if i != missing]
    with pytest.raises(BackendError):
        answer(with_logprobs(*outputs), 2)


def test_the_best_choices_have_the_highest_mean_log_probability() -> None:
    def choice(index: int, *logprobs: float) -> Choice:
        return Choice(index, str(index), "stop", [TokenLogprob(b"x", logprob, ()) for logprob in logprobs])

    decoded = Answer([choice(0, -2.0), choice(1, -1.0, -1.0, -1.0), choice(2, -3.0, -0.5)], Usage(1, 6, None))
    chosen = best(decoded, 2)
    assert [(choice.index, choice.text) for choice in chosen.choices] == [(0, "1"), (1, "2")]
    assert chosen.usage == decoded.usage
    timings = Timings(Usage(1, 6, None), 3, 1.0, 2.0)
    assert best(replace(decoded, timings=timings), 2).timings == timings


# ---- Other backends with this contract


@pytest.mark.parametrize("datatype", ["UINT32", "INT64", "UINT64", "INT16"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_counts_of_any_integer_type_and_rank_are_read(datatype: str, shape: tuple[int, ...]) -> None:
    response = message((contract.TEXT, [b"a"]), (contract.COMPLETION_TOKENS, [2]), raw=True)
    response.outputs.add(name="prompt_tokens", datatype=datatype, shape=shape)
    response.raw_output_contents.append(tensors.to_raw(datatype, [7]))
    assert answer(response, 1).usage == Usage(7, 2, None)


def test_a_text_as_a_count_is_an_error() -> None:
    response = message((contract.TEXT, [b"a"]))
    response.outputs.add(name="prompt_tokens", datatype="BYTES").contents.bytes_contents.append(b"7")
    with pytest.raises(BackendError, match="'prompt_tokens' as BYTES, not as INT32"):
        answer(response, 1)


def test_a_stream_may_be_answered_with_the_whole_texts() -> None:
    reader = StreamReader(2)
    assert reader.read(message((contract.TEXT, [b"a", b"b"]))) == [(0, b"a", None, ()), (1, b"b", None, ())]
    assert reader.end() == []


@pytest.mark.parametrize("derives_stop", [False, True])
def test_the_mark_of_the_end_is_the_reason_of_a_backend_without_reasons(derives_stop: bool) -> None:
    reader = StreamReader(1, derives_stop=derives_stop)
    reader.read(message((contract.TOKEN, [b"a"]), final=True))
    assert reader.end() == ([(0, b"", "stop", ())] if derives_stop else [])
