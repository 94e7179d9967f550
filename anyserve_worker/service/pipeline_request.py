"""Reads a request to a pipeline from its tensors, whose JSON it leaves alone. PURE."""

from collections.abc import Mapping

from anyserve_worker.core.origin import Metadata, read_origin
from anyserve_worker.pipelines.running_answer import PipelineRequest
from anyserve_worker.service.request import caller_of, read_inputs, tensor_error, timeout_of
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest

MAX_HEADER = 1024
"""Characters of a header's value. Longer ones are ignored."""


def parse(message: ModelInferRequest, model: str, task: str, metadata: Metadata, *, streams: bool) -> PipelineRequest:
    """`model`: name of the served model. Raises InvalidRequest, which names the tensor."""
    inputs = read_inputs(message, contract.TASKS[task].inputs)
    if contract.MESSAGES.name not in inputs:
        raise tensor_error(contract.MESSAGES, "missing")
    if task == contract.TASK_RESPONSES and contract.INPUT_ITEMS.name not in inputs:
        raise tensor_error(contract.INPUT_ITEMS, "missing")

    def single(spec: contract.TensorSpec) -> bytes | None:
        return bytes(inputs[spec.name].elements[0]) if spec.name in inputs else None

    return PipelineRequest(
        model=model,
        messages=[bytes(element) for element in inputs[contract.MESSAGES.name].elements],
        body=single(contract.BODY),
        input_items=single(contract.INPUT_ITEMS),
        streams=streams,
        timeout=timeout_of(message),
        caller=caller_of(message),
        headers=_headers(message, metadata),
        origin=read_origin(message, metadata),
    )


def _headers(message: ModelInferRequest, metadata: Metadata) -> Mapping[str, str]:
    """The metadata that pipelines may see: never credentials, which other metadata may contain."""
    headers = {
        name: value for name, value in metadata if name in contract.METADATA_PARAMETERS and isinstance(value, str)
    }
    for header, parameter in contract.METADATA_PARAMETERS.items():
        if parameter in message.parameters:
            headers[header] = message.parameters[parameter].string_param
    return {
        name: value
        for name, value in headers.items()
        if value and len(value) <= MAX_HEADER and value.isascii() and value.isprintable()
    }
