"""Descriptions of foreign models as their servers report them, and short names for tests."""

import json
from typing import Any

from openai_server.api.schemas import parse_completion
from openai_server.backends.dialects.base import Call, Dialect, Target
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.dialects.description import Description, ServerDescription, TensorDescription
from openai_server.core.turn import Turn
from protos import tensors
from protos.grpc_predict_v2_pb2 import ModelInferResponse

TRITON = ServerDescription("triton", frozenset({"sequence", "model_repository"}))


def tensors_of(text: str, shape: tuple[int, ...] = (1,)) -> tuple[TensorDescription, ...]:
    """Tensors from `NAME:DATATYPE` words."""
    pairs = (word.split(":") for word in text.split())
    return tuple(TensorDescription(name, datatype, shape) for name, datatype in pairs)


VLLM = Description(
    model="vllm_model",
    server=TRITON,
    backend="vllm",
    is_decoupled=True,
    inputs=tensors_of(
        "text_input:BYTES stream:BOOL sampling_parameters:BYTES exclude_input_in_output:BOOL return_finish_reason:BOOL "
        "return_num_input_tokens:BOOL return_num_output_tokens:BOOL return_logprobs:BOOL"
    ),
    outputs=tensors_of(
        "text_output:BYTES finish_reason:BYTES num_input_tokens:UINT32 num_output_tokens:UINT32 logprobs:BYTES"
    ),
)
ENSEMBLE = Description(
    model="ensemble",
    server=TRITON,
    platform="ensemble",
    is_decoupled=True,
    inputs=tensors_of(
        "text_input:BYTES max_tokens:INT32 stop_words:BYTES stream:BOOL temperature:FP32 top_p:FP32 top_k:INT32 "
        "seed:UINT64 exclude_input_in_output:BOOL return_num_input_tokens:BOOL return_num_output_tokens:BOOL "
        "num_return_sequences:INT32",
        (-1, 1),
    ),
    outputs=tensors_of(
        "text_output:BYTES num_input_tokens:INT32 num_output_tokens:INT32 sequence_index:INT32", (-1, 1)
    ),
)
BLS = Description(
    model="tensorrt_llm_bls",
    server=TRITON,
    backend="python",
    is_decoupled=True,
    inputs=ENSEMBLE.inputs,
    outputs=ENSEMBLE.outputs,
    settings={"accumulate_tokens": "true"},
)
LLMAPI = Description(
    model="llmapi",
    server=TRITON,
    backend="python",
    is_decoupled=False,
    inputs=tensors_of(
        "text_input:BYTES streaming:BOOL sampling_param_max_tokens:INT32 sampling_param_temperature:FP32 "
        "sampling_param_stop:BYTES sampling_param_seed:UINT64 sampling_param_exclude_input_from_output:BOOL "
        "return_finish_reason:BOOL stop:BOOL"
    ),
    outputs=tensors_of("text_output:BYTES finish_reason:BYTES stop_reason:BYTES"),
)
PREPROCESSING = Description(
    model="preprocessing",
    server=TRITON,
    backend="python",
    inputs=tensors_of("QUERY:BYTES REQUEST_OUTPUT_LEN:INT32"),
    outputs=tensors_of("INPUT_ID:INT32"),
)
DYNAMO = Description(
    model="qwen",
    platform="dynamo",
    backend="dynamo",
    inputs=tensors_of("text_input:BYTES streaming:BOOL"),
    outputs=tensors_of("text_output:BYTES finish_reason:BYTES"),
)
MLSERVER = Description(
    model="gpt", server=ServerDescription("mlserver"), inputs=tensors_of("array_inputs:BYTES", (-1,))
)
POC = Description(model="tiny", server=ServerDescription("anyserve"), platform="anyserve")
TUTORIAL = Description(
    model="mistral",
    server=TRITON,
    backend="python",
    is_decoupled=False,
    inputs=tensors_of("prompt:BYTES"),
    outputs=tensors_of("text:BYTES"),
)
PLAIN = Description(
    model="plain", inputs=tensors_of("text_input:BYTES max_tokens:INT32"), outputs=tensors_of("text_output:BYTES")
)
KSERVE = Description(
    model="custom",
    server=ServerDescription("kserve"),
    inputs=tensors_of("question:BYTES"),
    outputs=tensors_of("a:BYTES"),
)


def dialect_of(description: Description) -> Dialect:
    recognized = Dialects().of(description)
    assert recognized is not None
    return recognized.dialect


SELDON = Description(
    model="chat",
    server=ServerDescription("mlserver"),
    inputs=tensors_of("role:BYTES content:BYTES type:BYTES", (-1,)),
    outputs=tensors_of("role:BYTES content:BYTES type:BYTES", (-1,)),
)


def turn_of(**body: Any) -> Turn:
    return parse_completion(json.dumps({"prompt": "Hi", **body}).encode()).turn()


def call_of(dialect: Dialect, *, streams: bool = False, **body: Any) -> Call:
    """The call for a completion with one prompt."""
    turn = turn_of(**body)
    [call] = dialect.calls(turn, turn.prompts, Target("m", dialect.input_names, "id"), {}, streams=streams)
    return call


def inputs_of(call: Call) -> dict[str, list[Any]]:
    """The elements of a call's tensors, by name."""
    return {name: list(tensor.elements) for name, tensor in tensors.read_inputs(call.request).items()}


def answer_of(call: Call, *responses: ModelInferResponse) -> tuple[dict[int, str], dict[int, str | None], Any]:
    """Texts and finish reasons of the choices, and the usage."""
    reader = call.new_reader()
    texts: dict[int, bytes] = {}
    reasons: dict[int, str | None] = {}
    rows = [row for message in responses for row in reader.read(message)]
    for index, text, reason, _ in [*rows, *reader.end()]:
        assert reasons.get(index) is None, "a choice goes on after its end"
        texts[index] = texts.get(index, b"") + text
        reasons[index] = reason
    return {index: text.decode() for index, text in texts.items()}, reasons, reader.usage
