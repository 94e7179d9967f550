"""Request to tensors: the one table of sampling fields, and the ModelInferRequest of one prompt.

PURE.
"""

from collections.abc import Container
from dataclasses import dataclass

from openai_server.errors import UnsupportedParameter
from openai_server.schemas import Prompt, Request
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest


@dataclass(frozen=True, slots=True)
class Sampling:
    tensor: TensorSpec
    off: float | None = None
    """The value that means the same as leaving the tensor out, if there is one."""


# Attribute of the request → tensor.
SAMPLING: dict[str, Sampling] = {
    "max_tokens": Sampling(contract.MAX_TOKENS),
    "temperature": Sampling(contract.TEMPERATURE, off=1),
    "top_p": Sampling(contract.TOP_P, off=1),
    "top_k": Sampling(contract.TOP_K, off=0),
    "min_p": Sampling(contract.MIN_P, off=0),
    "presence_penalty": Sampling(contract.PRESENCE_PENALTY, off=0),
    "frequency_penalty": Sampling(contract.FREQUENCY_PENALTY, off=0),
    "repetition_penalty": Sampling(contract.REPETITION_PENALTY, off=1),
    "stop": Sampling(contract.STOP),
    "seed": Sampling(contract.SEED),
    "n": Sampling(contract.N, off=1),
}


def params(request: Request) -> dict[str, str]:
    """Tensor → the field of this request that it came from, to name in errors."""
    names = {sampling.tensor.name: name for name, sampling in SAMPLING.items()}
    names[contract.MAX_TOKENS.name] = request.token_limit[0]
    names[contract.PROMPT.name] = names[contract.PROMPT_TOKEN_IDS.name] = request.PROMPT_FIELD
    return names


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING: Container[str] = _Everything()
"""The inputs of a backend that does not say which tensors it takes."""


def infer_request(
    request: Request, prompt: Prompt, *, model: str, request_id: str, takes: Container[str] = EVERYTHING
) -> ModelInferRequest:
    """Only what the client set is sent, so that everything else is the backend's default.

    `takes` are the names of the backend's inputs. Raises UnsupportedParameter if the client set something that can't
    be said to this backend.
    """
    message = ModelInferRequest(model_name=model, id=request_id)
    spec = contract.PROMPT if isinstance(prompt, str) else contract.PROMPT_TOKEN_IDS
    if spec.name not in takes:
        raise UnsupportedParameter(
            request.PROMPT_FIELD, f"The model '{model}' takes no prompt in this form (it has no '{spec.name}' input)."
        )
    tensors.add_input(message, spec, [prompt.encode()] if isinstance(prompt, str) else prompt)

    for name, sampling in SAMPLING.items():
        values = _elements(request, name)
        if not values:
            continue
        if sampling.tensor.name in takes:
            tensors.add_input(message, sampling.tensor, values)
        elif values != [sampling.off] and _was_set(request, name):
            field = params(request)[sampling.tensor.name]
            raise UnsupportedParameter(field, f"The model '{model}' does not support '{field}'.")
    return message


def _elements(request: Request, name: str) -> list[bytes | int | float]:
    """Empty if there is nothing to send."""
    if name == "max_tokens":
        limit = request.token_limit[1]
        return [] if limit is None else [limit]
    value = getattr(request, name)
    if value is None:
        return []
    if name == "stop":
        return [text.encode() for text in request.stops]
    if name == "seed":
        return [fold_seed(value)]
    if name == "top_k":
        return [max(value, 0)]  # -1 is a second word for off
    return [value]


def _was_set(request: Request, name: str) -> bool:
    """False for the one default that we send ourselves: OpenAI's max_tokens of completions."""
    return name != "max_tokens" or getattr(request, request.token_limit[0]) is not None


def fold_seed(seed: int) -> int:
    """A 64-bit seed as a 32-bit one: those that fit stay as they are, of others the halves are combined."""
    if -(2**31) <= seed < 2**31:
        return seed
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return folded - 2**32 if folded >= 2**31 else folded
