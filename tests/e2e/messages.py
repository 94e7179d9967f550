"""Requests and answers of the worker, in as few words as a test needs."""

from collections.abc import Sequence
from typing import Any

import grpc

from protos import contract, tensors
from protos import grpc_predict_v2_pb2 as pb

_INPUTS = {spec.name: spec for spec in contract.INPUTS}

STORY = "<|im_start|>user\nTell me a story about a fox and a crow.<|im_end|>\n<|im_start|>assistant\n"
LONG_STORY = STORY + "Once upon a time, in a forest far away, there lived a very clever fox. " * 12


def infer(model: str, prompt: str | Sequence[int], *, id: str = "", **inputs: Any) -> pb.ModelInferRequest:
    """Typed contents; a keyword is an input tensor: a scalar, or a list."""
    request = pb.ModelInferRequest(model_name=model, id=id)
    if isinstance(prompt, str):
        tensors.add_input(request, contract.PROMPT, [prompt.encode()])
    else:
        tensors.add_input(request, contract.PROMPT_TOKEN_IDS, prompt)
    for name, value in inputs.items():
        values = value if isinstance(value, list) else [value]
        tensors.add_input(request, _INPUTS[name], [v.encode() if isinstance(v, str) else v for v in values])
    return request


def to_raw(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """The same request, with raw contents."""
    raw = pb.ModelInferRequest()
    raw.CopyFrom(request)
    for message, tensor in zip(raw.inputs, tensors.read_inputs(request).values(), strict=True):
        raw.raw_input_contents.append(tensors.to_raw(tensor.datatype, tensor.elements))
        message.ClearField("contents")
    return raw


def outputs(response: pb.ModelInferResponse) -> dict[str, list[Any]]:
    """Elements by tensor name; BYTES as text."""
    return {
        name: [e.decode() if isinstance(e, bytes) else e for e in tensor.elements]
        for name, tensor in tensors.read_outputs(response).items()
    }


def trailers(error: grpc.RpcError) -> dict[str, str]:
    """What an error says beside its status and message."""
    metadata: Any = error.trailing_metadata()
    return dict(metadata)


def text(response: pb.ModelInferResponse) -> str:
    (only,) = outputs(response)["text"]
    assert isinstance(only, str)
    return only
