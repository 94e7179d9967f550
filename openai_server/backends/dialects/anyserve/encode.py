"""Encodes a turn as the ModelInferRequest of one prompt. PURE."""

from collections.abc import Container, Mapping
from types import MappingProxyType

from openai_server.backends.dialects.base import ServerInputs
from openai_server.backends.dialects.description import TensorDescription
from openai_server.backends.dialects.inputs import EVERYTHING, INPUT_ROWS, fields, is_omittable, unsupported, values_of
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.turn import Prompt, Turn
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest


def infer_request(
    turn: Turn,
    prompt: Prompt,
    *,
    model: str,
    request_id: str,
    version: str = "",
    input_names: Container[str] = EVERYTHING,
    server_inputs: ServerInputs = MappingProxyType({}),
    described: Mapping[str, TensorDescription] = MappingProxyType({}),
) -> ModelInferRequest:
    """The request for one prompt. It has only the fields that the client set; all others are the backend's defaults.

    `input_names` are the names of the backend's inputs. `server_inputs` replace the client's fields. `described` are
    inputs whose datatype or rank differs from the contract. Raises UnsupportedParameter if the client set a field that
    this backend has no input for.
    """
    message = ModelInferRequest(model_name=model, model_version=version, id=request_id)
    spec = contract.PROMPT if isinstance(prompt, str) else contract.PROMPT_TOKEN_IDS
    if spec.name not in input_names:
        problem = f"The model '{model}' accepts no prompt in this form (it has no '{spec.name}' input)."
        raise UnsupportedParameter(turn.name("prompt"), problem)
    tensors.add_input(message, spec, [prompt.encode()] if isinstance(prompt, str) else prompt)

    for spec, elements in server_inputs.items():
        tensors.add_input(message, spec, elements)
    for row, value in zip(INPUT_ROWS, values_of(turn), strict=True):
        if value is None or (server_inputs and row.tensor in server_inputs):
            continue
        values = row.elements(value) if row.elements else (value,)
        if not values:
            continue
        if row.tensor.name in input_names:
            tensors.add_input(message, row.tensor, values)
        elif not is_omittable(row, values, turn):
            raise unsupported(fields(turn)[row.tensor.name], model)
    for tensor in message.inputs if described else ():
        if (description := described.get(tensor.name)) is not None:
            try:
                tensors.convert_input(tensor, description.datatype, len(description.shape))
            except tensors.TensorError as error:
                field = fields(turn)[tensor.name]
                raise UnsupportedParameter(field, f"'{field}' can't be sent to this model: {error}.") from error
    return message
