"""Whatever a backend sends, a reader returns valid rows or raises BackendError."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.backends.dialects.description import Description
from openai_server.core.errors import BackendError
from protos import tensors
from protos.grpc_predict_v2_pb2 import ModelInferResponse
from tests.openai_server.backends.dialects.mapping import models
from tests.openai_server.backends.dialects.mapping.models import call_of, dialect_of

NAMES = (
    *("text_output", "finish_reason", "num_input_tokens", "num_output_tokens", "logprobs", "sequence_index"),
    *("output", "token", "text", "other"),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(["generated_text", "1"]), values),
    max_leaves=4,
)
_texts = (
    st.binary(max_size=6)
    | st.sampled_from([b"None", b"stop", b"length", b"null"])
    | _json.map(lambda value: json.dumps(value).encode())
)
_elements = st.one_of(
    st.tuples(st.just("BYTES"), st.lists(_texts, max_size=3)),
    st.tuples(st.just("UINT32"), st.lists(st.integers(0, 5), max_size=3)),
    st.tuples(st.just("INT64"), st.lists(st.integers(-3, 1 << 40), max_size=3)),
    st.tuples(st.just("FP32"), st.lists(st.floats(width=32), max_size=2)),
    st.tuples(st.just("BOOL"), st.lists(st.booleans(), max_size=2)),
    st.tuples(st.just("NONSENSE"), st.just([])),
)
_outputs = st.dictionaries(st.sampled_from(NAMES), _elements, max_size=4)


def message(outputs: dict[str, tuple[str, list[Any]]], *, final: bool, raw: bool, lost: bool) -> ModelInferResponse:
    response = ModelInferResponse()
    for name, (datatype, elements) in outputs.items():
        output = response.outputs.add(name=name, datatype=datatype, shape=[len(elements)])
        if raw:
            response.raw_output_contents.append(b"" if datatype == "NONSENSE" else tensors.to_raw(datatype, elements))
        elif datatype == "BYTES":
            output.contents.bytes_contents.extend(elements)
    if lost and response.raw_output_contents:
        response.raw_output_contents.pop()
    response.parameters["triton_final_response"].bool_param = final
    return response


@pytest.mark.parametrize(
    "description", [models.VLLM, models.ENSEMBLE, models.BLS, models.LLMAPI, models.MLSERVER, models.POC, models.PLAIN]
)
@given(
    responses=st.lists(
        st.builds(message, _outputs, final=st.booleans(), raw=st.booleans(), lost=st.booleans()), max_size=4
    ),
    streams=st.booleans(),
)
def test_any_answer_is_read_or_refused(
    description: Description, responses: list[ModelInferResponse], streams: bool
) -> None:
    call = call_of(dialect_of(description), streams=streams)
    reader = call.new_reader()
    rows = []
    with suppress(BackendError):
        for response in responses:
            rows += reader.read(response)
        rows += reader.end()
        assert reader.usage is None or min(reader.usage[:2]) >= 0
    ended: set[int] = set()
    for index, text, reason, _ in rows:
        assert 0 <= index < call.n
        assert isinstance(text, bytes)
        assert index not in ended or (not text and reason is None), "a choice goes on after its end"
        if reason is not None:
            assert reason in ("stop", "length", "content_filter")
            ended.add(index)
