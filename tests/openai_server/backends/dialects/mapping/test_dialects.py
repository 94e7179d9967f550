"""The requests of each built-in dialect, and how its answers are read: the tensors and manners of the real servers."""

import json
from typing import Any

import pytest

from openai_server.backends.dialects.base import Rpc, Target
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.dialects.description import Description
from openai_server.backends.dialects.mapping.reader import MappedReader
from openai_server.core.errors import BackendError, UnsupportedParameter
from openai_server.core.usage import Usage
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse
from tests.openai_server.backends.dialects.mapping import models
from tests.openai_server.backends.dialects.mapping.models import answer_of, call_of, dialect_of, inputs_of
from tests.wire.foreign_server import answer as response

PLAIN_WITH_STOP = Description(
    model="m", inputs=models.tensors_of("text_input:BYTES stop:BYTES"), outputs=models.tensors_of("text_output:BYTES")
)
VLLM, ENSEMBLE, LLMAPI = dialect_of(models.VLLM), dialect_of(models.ENSEMBLE), dialect_of(models.LLMAPI)


# ---- Triton's vLLM


def test_vllm_gets_its_parameters_as_one_json_object() -> None:
    call = call_of(VLLM, max_tokens=5, temperature=0.5, stop=["a", "b"], seed=-(1 << 40), top_k=-1, n=2, logit_bias={})
    inputs = inputs_of(call)
    parameters = {
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["a", "b"],
        "seed": (1 << 63) - (1 << 40),
        "top_k": -1,
        "n": 2,
    }
    assert json.loads(inputs.pop("sampling_parameters")[0]) == parameters
    assert inputs == {
        "text_input": [b"Hi"],
        "stream": [True],
        "exclude_input_in_output": [True],
        "return_finish_reason": [True],
        "return_num_input_tokens": [True],
        "return_num_output_tokens": [True],
    }
    assert call.request.parameters[contract.PARAM_EMPTY_FINAL].bool_param
    assert call.prompt_input == "text_input"


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        ({"top_p": 0}, {"top_p": 1e-6, "max_tokens": 16}),
        ({"seed": -1}, {"seed": (1 << 63) - 1, "max_tokens": 16}),
    ],
)
def test_vllm_gets_no_value_that_it_refuses(body: dict[str, Any], parameters: dict[str, Any]) -> None:
    assert json.loads(inputs_of(call_of(VLLM, **body))["sampling_parameters"][0]) == parameters


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"suffix": "x"}, "suffix"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"grammar": "root ::= [a]"}, "grammar"),
        ({"json_schema": {}}, "json_schema"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"repeat_penalty": 1.5, "mirostat": 1}, "mirostat"),
    ],
)
def test_vllm_gets_no_field_that_it_would_fail_with(body: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        call_of(VLLM, **body)
    assert caught.value.param == field


def test_a_whole_answer_of_vllm_is_read_from_its_stream() -> None:
    pieces = [("Hel", b"None", 1), ("lo", b"None", 1), ("!", b"length", 2)]
    answers = [
        response(
            final=i == 2,
            text_output=text,
            finish_reason=("BYTES", [reason]),
            num_input_tokens=("UINT32", [4]),
            num_output_tokens=("UINT32", [n]),
        )
        for i, (text, reason, n) in enumerate(pieces)
    ]
    assert answer_of(call_of(VLLM), *answers) == ({0: "Hello!"}, {0: "length"}, Usage(4, 4, None))


def test_choices_of_vllm_are_elements_of_its_text() -> None:
    answers = [
        response(text_output=("BYTES", [b"a", b"x"]), finish_reason=("BYTES", [b"None", b"stop"])),
        response(True, text_output=("BYTES", [b"b", b""]), finish_reason=("BYTES", [b"length", b"stop"])),
    ]
    assert answer_of(call_of(VLLM, n=2), *answers)[:2] == ({0: "ab", 1: "x"}, {0: "length", 1: "stop"})


def test_a_missing_choice_is_an_error() -> None:
    with pytest.raises(BackendError, match="sent 1 choices, but 2 were requested"):
        answer_of(call_of(VLLM, n=2), response(True, text_output="a", finish_reason="stop"))


def test_a_reason_may_come_without_a_text() -> None:
    parts = [response(text_output="a", finish_reason="None"), response(True, finish_reason="length")]
    assert answer_of(call_of(VLLM), *parts)[:2] == ({0: "a"}, {0: "length"})


def test_log_probabilities_of_vllm_are_read() -> None:
    call = call_of(VLLM, logprobs=1)
    assert inputs_of(call)["return_logprobs"] == [True]
    position = {
        "7": {"logprob": -2.0, "rank": 2, "decoded_token": " a"},
        "9": {"logprob": -0.5, "rank": 1, "decoded_token": " b"},
    }
    text = json.dumps([position]).encode()
    [row] = call.new_reader().read(response(text_output=" a", logprobs=("BYTES", [text])))
    assert [tuple(token) for token in row[3]] == [(b" a", -2.0, [(b" b", -0.5)])]
    with pytest.raises(BackendError, match="log probabilities"):
        call.new_reader().read(response(text_output=" a", logprobs=("BYTES", [b"[{"])))


@pytest.mark.parametrize("value", ["-Infinity", "NaN"])
def test_log_probabilities_of_impossible_tokens_are_read(value: str) -> None:
    text = f'[{{"7": {{"logprob": {value}, "rank": 2, "decoded_token": null}}}}]'.encode()
    [row] = call_of(VLLM, logprobs=1).new_reader().read(response(text_output="a", logprobs=("BYTES", [text])))
    assert [tuple(token) for token in row[3]] == [(b"", -9999.0, [(b"", -9999.0)])]


def test_text_after_a_finish_reason_is_an_error() -> None:
    parts = [response(text_output="Hel", finish_reason="stop"), response(True, text_output="lo", finish_reason="None")]
    for streams in (False, True):
        with pytest.raises(BackendError, match="text after the end of a choice"):
            answer_of(call_of(VLLM, streams=streams), *parts)
    assert answer_of(call_of(VLLM), parts[0], response(True, text_output=""))[0] == {0: "Hel"}


def test_text_after_a_stop_string_is_ignored() -> None:
    parts = [response(text_output="one STOP"), response(text_output=" two"), response(True)]
    assert answer_of(call_of(ENSEMBLE, stop="STOP"), *parts)[0] == {0: "one "}


def test_an_answer_is_complete_when_nothing_more_can_come() -> None:
    reader = call_of(VLLM).new_reader()
    assert isinstance(reader, MappedReader)
    reader.read(response(text_output="a", finish_reason="stop"))
    assert not reader.is_complete, "its counts may follow"
    reader.read(response(True))
    assert reader.is_complete
    dynamo = call_of(dialect_of(models.DYNAMO)).new_reader()
    assert isinstance(dynamo, MappedReader)
    dynamo.read(response(text_output="a", finish_reason=""))
    assert not dynamo.is_complete
    dynamo.read(response(text_output="b", finish_reason="stop"))
    assert dynamo.is_complete
    plain = call_of(dialect_of(PLAIN_WITH_STOP), stop="STOP", streams=True).new_reader()
    assert isinstance(plain, MappedReader)
    plain.read(response(text_output="a ST"))
    assert not plain.is_complete
    plain.read(response(text_output="OP"))
    assert plain.is_complete


def test_a_stop_string_that_is_cut_off_has_a_limit() -> None:
    dialect = dialect_of(PLAIN_WITH_STOP)
    call_of(dialect, stop="x" * 4096)
    with pytest.raises(UnsupportedParameter, match="limited to 4096 bytes") as caught:
        call_of(dialect, stop=["a", "x" * 4097])
    assert caught.value.param == "stop"
    call_of(VLLM, stop="x" * 4097)


def test_a_stream_that_ends_without_its_mark_is_incomplete() -> None:
    with pytest.raises(BackendError, match="ended the stream early"):
        answer_of(call_of(VLLM), response(text_output="a", finish_reason="None"))
    with pytest.raises(BackendError, match="no text"):
        answer_of(call_of(VLLM), response(final=True))


def test_structured_outputs_are_sent_only_to_a_model_that_is_configured_to_have_them() -> None:
    recognized = Dialects({"vllm_model": "triton_vllm_structured"}).of(models.VLLM)
    assert recognized is not None
    call = call_of(recognized.dialect, json_schema={"type": "integer"})
    sent = json.loads(inputs_of(call)["sampling_parameters"][0])
    assert json.loads(json.loads(sent["structured_outputs"])["json"]) == {"type": "integer"}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Request for unknown model: 'zz' is not found", "NOT_FOUND"),
        ("The decoder prompt is longer than the maximum model length of 4096.", "INVALID_ARGUMENT"),
        ("Error generating stream: boom", "UNKNOWN"),
    ],
)
def test_errors_of_a_stream_get_a_status(text: str, status: str) -> None:
    error = call_of(VLLM).error_of(ModelStreamInferResponse(error_message=text))
    assert isinstance(error, BackendError)
    assert (error.status, error.message) == (status, text)


@pytest.mark.parametrize("description", [models.PLAIN, models.ENSEMBLE, models.TUTORIAL])
def test_a_model_that_triton_has_unloaded_is_not_found(description: Description) -> None:
    message = ModelStreamInferResponse(error_message="Request for unknown model: 'm' has no available versions")
    error = call_of(dialect_of(description)).error_of(message)
    assert isinstance(error, BackendError)
    assert error.status == "NOT_FOUND"


# ---- TensorRT-LLM


def test_trtllm_gets_tensors_with_a_batch_dimension() -> None:
    call = call_of(ENSEMBLE, max_tokens=5, stop=["a", "b"], seed=-1, n=2)
    shapes = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in call.request.inputs}
    assert shapes["stop_words"] == ("BYTES", [1, 2])
    assert shapes["seed"] == ("UINT64", [1, 1])
    inputs = inputs_of(call)
    assert (inputs["seed"], inputs["max_tokens"]) == ([(1 << 64) - 1], [5])
    assert (inputs["num_return_sequences"], inputs["stream"]) == ([2], [True])
    assert inputs["exclude_input_in_output"] == [True]


@pytest.mark.parametrize("body", [{"temperature": 0}, {"top_p": 0}, {"temperature": 0, "top_k": 5}])
def test_greedy_requests_are_the_likeliest_token_for_trtllm(body: dict[str, Any]) -> None:
    inputs = inputs_of(call_of(ENSEMBLE, **body))
    assert inputs["top_k"] == [1]
    assert not inputs.keys() & {"temperature", "top_p"}


def test_trtllm_always_gets_a_limit() -> None:
    turn = models.turn_of()
    turn.token_limit = None
    [call] = ENSEMBLE.calls(turn, turn.prompts, Target("m", (), "id"), {}, streams=False)
    assert inputs_of(call)["max_tokens"] == [512]


def test_the_stop_string_that_trtllm_leaves_in_is_cut_off_and_the_reason_follows_from_the_counts() -> None:
    def part(text: str, n: int, *, final: bool = False) -> Any:
        return response(final, text_output=text, num_input_tokens=("INT32", [3]), num_output_tokens=("INT32", [n]))

    stopped = [part("one S", 2), part("TOP", 1, final=True)]
    assert answer_of(call_of(ENSEMBLE, stop="STOP"), *stopped) == ({0: "one "}, {0: "stop"}, Usage(3, 3, None))
    ended = [part("one", 2), part(" two", 1), response(True)]
    assert answer_of(call_of(ENSEMBLE, max_tokens=3), *ended) == ({0: "one two"}, {0: "length"}, Usage(3, 3, None))
    assert answer_of(call_of(ENSEMBLE, max_tokens=4), *ended) == ({0: "one two"}, {0: "stop"}, Usage(3, 3, None))


def test_sequences_of_trtllm_have_an_index() -> None:
    parts = [
        response(text_output="a", sequence_index=("INT32", [1])),
        response(text_output="b", sequence_index=("INT32", [0])),
        response(True, text_output="c", sequence_index=("INT32", [1])),
    ]
    texts, reasons, usage = answer_of(call_of(ENSEMBLE, n=2), *parts)
    assert (texts, set(reasons.values()), usage) == ({1: "ac", 0: "b"}, {None}, None)
    with pytest.raises(BackendError, match="choice 2 of 2"):
        call_of(ENSEMBLE, n=2).new_reader().read(response(text_output="a", sequence_index=("INT32", [2])))


def test_bls_sends_the_whole_text_so_far() -> None:
    call = call_of(dialect_of(models.BLS), streams=True)
    parts = [response(text_output="one"), response(text_output="one two"), response(True)]
    texts, reasons, usage = answer_of(call, *parts)
    assert (texts, reasons, usage) == ({0: "one two"}, {0: "stop"}, None), "the mark of the end is `stop` in a stream"
    assert answer_of(call_of(dialect_of(models.BLS)), *parts)[1] == {0: None}, "and nothing in a whole answer"


def test_llmapi_that_is_not_decoupled_answers_as_a_whole() -> None:
    call = call_of(LLMAPI, streams=True, stop="x", max_tokens=2, temperature=0)
    assert call.rpc is Rpc.UNARY
    inputs = inputs_of(call)
    assert "streaming" not in inputs
    assert (inputs["sampling_param_stop"], inputs["sampling_param_temperature"]) == ([b"x"], [0.0])
    assert answer_of(call, response(text_output="Hi", finish_reason="stop")) == ({0: "Hi"}, {0: "stop"}, None)
    with pytest.raises(UnsupportedParameter, match="'n'"):
        call_of(LLMAPI, n=2)
    with pytest.raises(BackendError, match="for the reason 'timeout'"):
        answer_of(call, response(text_output="Hi", finish_reason="timeout"))


# ---- Others


@pytest.mark.parametrize("body", [{"max_tokens": 2}, {"temperature": 0.5}, {"stop": "x"}, {"seed": 2}])
def test_dynamo_gets_nothing_but_the_text(body: dict[str, Any]) -> None:
    dialect = dialect_of(models.DYNAMO)
    assert inputs_of(call_of(dialect)) == {"text_input": [b"Hi"], "streaming": [True]}
    with pytest.raises(UnsupportedParameter) as caught:
        call_of(dialect, **body)
    assert {caught.value.param} == body.keys()


def test_an_answer_of_dynamo_ends_with_its_stream() -> None:
    dialect = dialect_of(models.DYNAMO)
    parts = [response(text_output="a", finish_reason=""), response(text_output="b", finish_reason="length")]
    assert answer_of(call_of(dialect), *parts) == ({0: "ab"}, {0: "length"}, None)
    with pytest.raises(BackendError, match="early"):
        answer_of(call_of(dialect), parts[0])


def test_mlserver_gets_arguments_of_the_pipeline() -> None:
    dialect = dialect_of(models.MLSERVER)
    call = call_of(dialect, max_tokens=3, temperature=0.5)
    assert inputs_of(call) == {
        "array_inputs": [b"Hi"],
        "max_new_tokens": [3],
        "temperature": [0.5],
        "do_sample": [True],
        "return_full_text": [False],
    }
    raw = {tensor.name for tensor in call.request.inputs if tensor.parameters["content_type"].string_param == "raw"}
    assert raw == {"max_new_tokens", "temperature", "do_sample", "return_full_text"}
    greedy = inputs_of(call_of(dialect, temperature=0, top_p=0.5))
    assert (greedy["do_sample"], "temperature" in greedy) == ([False], False)
    for name in ("top_p", "top_k"):
        assert inputs_of(call_of(dialect, **{name: 1}))["do_sample"] == [True]  # type: ignore[arg-type]
    assert answer_of(call, response(output='[{"generated_text": "yes"}]')) == ({0: "yes"}, {0: None}, None)
    with pytest.raises(BackendError, match="not JSON"):
        answer_of(call, response(output="yes"))


@pytest.mark.parametrize(("streams", "model"), [(False, "generate"), (True, "generate_stream")])
def test_anyserves_first_server_is_addressed_by_capability(streams: bool, model: str) -> None:
    call = call_of(dialect_of(models.POC), streams=streams, top_k=3)
    assert (call.request.model_name, call.request.model_version) == (model, "llamacpp")
    assert inputs_of(call) == {"prompt": [b"Hi"], "max_tokens": [16], "temperature": [1], "top_p": [1], "top_k": [3]}
    with pytest.raises(UnsupportedParameter, match="'stop'"):
        call_of(dialect_of(models.POC), stop="x")


def test_the_finish_reason_of_anyserves_first_server_is_not_believed() -> None:
    call = call_of(dialect_of(models.POC), streams=True)
    parts = [response(token="a", finish_reason="null"), response(token="", finish_reason="stop")]
    texts, reasons, _ = answer_of(call, *parts)
    assert (texts, reasons) == ({0: "a"}, {0: None})
    with pytest.raises(BackendError, match="no text"):
        answer_of(call_of(dialect_of(models.POC)), response())


def test_a_plain_model_refuses_what_its_metadata_lacks() -> None:
    dialect = dialect_of(models.PLAIN)
    assert inputs_of(call_of(dialect, max_tokens=3)) == {"text_input": [b"Hi"], "max_tokens": [3]}
    with pytest.raises(UnsupportedParameter, match="'stop'"):
        call_of(dialect, stop="x")


@pytest.mark.parametrize("description", [models.VLLM, models.PLAIN])
def test_the_prompt_is_echoed_by_this_server(description: Description) -> None:
    call = call_of(dialect_of(description), echo=True)
    texts, *_ = answer_of(call, response(True, text_output=" there", finish_reason="stop"))
    assert texts == {0: "Hi there"}
