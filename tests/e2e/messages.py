"""Short forms of requests to the worker and of its responses."""

from collections.abc import Sequence
from typing import Any

import grpc

from protos import contract, tensors
from protos import grpc_predict_v2_pb2 as pb

_INPUTS = {spec.name: spec for spec in contract.INPUTS}

STORY = "<|im_start|>user\nTell me a story about a fox and a crow.<|im_end|>\n<|im_start|>assistant\n"
LONG_STORY = STORY + "Once upon a time, in a forest far away, there lived a very clever fox. " * 12


def infer(model: str, prompt: str | Sequence[int], *, id: str = "", **inputs: Any) -> pb.ModelInferRequest:
    """Builds a request with typed contents; each keyword is an input tensor, with a scalar or a list."""
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
    """Returns the same request with raw contents."""
    raw = pb.ModelInferRequest()
    raw.CopyFrom(request)
    for message, tensor in zip(raw.inputs, tensors.read_inputs(request).values(), strict=True):
        raw.raw_input_contents.append(tensors.to_raw(tensor.datatype, tensor.elements))
        message.ClearField("contents")
    return raw


def outputs(response: pb.ModelInferResponse) -> dict[str, list[Any]]:
    """Returns elements by tensor name; BYTES as text."""
    return {
        name: [e.decode() if isinstance(e, bytes) else e for e in tensor.elements]
        for name, tensor in tensors.read_outputs(response).items()
    }


def trailers(error: grpc.RpcError) -> dict[str, str]:
    """Returns an error's details besides status and message."""
    metadata: Any = error.trailing_metadata()
    return dict(metadata)


def text(response: pb.ModelInferResponse) -> str:
    (only,) = outputs(response)["text"]
    assert isinstance(only, str)
    return only
