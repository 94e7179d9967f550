"""Request to tensors: the one table of sampling fields, and the ModelInferRequest of one prompt.

PURE.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import orjson

from openai_server.api.schemas import ChatRequest, Prompt, Request
from openai_server.core import guide_parts
from openai_server.core.closing import closed
from openai_server.core.errors import UnsupportedParameter
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest


@dataclass(frozen=True, slots=True)
class Sampling:
    tensor: TensorSpec
    off: float | None = None
    """The value that means the same as leaving the tensor out, if there is one."""
    elements: Callable[[Any], Sequence[Any]] | None = None
    """Of the attribute's value, where they are not that value alone; empty if there is nothing to send."""
    attribute: str = ""
    """Of the request, where it is not the key."""
    field: str = ""
    """That a client sets, where it is not the key."""


def _source(value: str | Mapping[str, Any]) -> Sequence[bytes]:
    """Text as it is, an object as JSON."""
    return [value.encode() if isinstance(value, str) else orjson.dumps(value)]


def _texts(texts: Sequence[str]) -> Sequence[bytes]:
    return [text.encode() for text in texts]


def _number(value: float) -> Sequence[Any]:
    """-1 is a second word for off."""
    return (max(value, 0),)


# An attribute that is None is not sent.
SAMPLING: dict[str, Sampling] = {
    "max_tokens": Sampling(contract.MAX_TOKENS, attribute="most_tokens"),
    "temperature": Sampling(contract.TEMPERATURE, off=1),
    "top_p": Sampling(contract.TOP_P, off=1),
    "top_k": Sampling(contract.TOP_K, off=0, elements=_number),
    "min_p": Sampling(contract.MIN_P, off=0),
    "typical_p": Sampling(contract.TYPICAL_P, off=1),
    "top_n_sigma": Sampling(contract.TOP_N_SIGMA, off=0, elements=_number),
    "presence_penalty": Sampling(contract.PRESENCE_PENALTY, off=0),
    "frequency_penalty": Sampling(contract.FREQUENCY_PENALTY, off=0),
    "penalty": Sampling(contract.REPETITION_PENALTY, off=1, field="repetition_penalty"),
    "repeat_last_n": Sampling(contract.REPEAT_LAST_N, off=-1),
    "xtc_probability": Sampling(contract.XTC_PROBABILITY, off=0),
    "xtc_threshold": Sampling(contract.XTC_THRESHOLD),
    "dry_multiplier": Sampling(contract.DRY_MULTIPLIER, off=0),
    "dry_base": Sampling(contract.DRY_BASE),
    "dry_allowed_length": Sampling(contract.DRY_ALLOWED_LENGTH),
    "dry_penalty_last_n": Sampling(contract.DRY_PENALTY_LAST_N, off=-1),
    "dry_sequence_breakers": Sampling(contract.DRY_SEQUENCE_BREAKERS, elements=_texts),
    "mirostat": Sampling(contract.MIROSTAT, off=0),
    "mirostat_tau": Sampling(contract.MIROSTAT_TAU),
    "mirostat_eta": Sampling(contract.MIROSTAT_ETA),
    "logit_bias": Sampling(contract.LOGIT_BIAS_TOKEN_IDS, elements=lambda biases: [int(token) for token in biases]),
    "biases": Sampling(
        contract.LOGIT_BIAS, elements=lambda biases: list(biases.values()), attribute="logit_bias", field="logit_bias"
    ),
    "stop": Sampling(contract.STOP, elements=lambda stop: _texts([stop] if isinstance(stop, str) else stop)),
    "stop_token_ids": Sampling(contract.STOP_TOKEN_IDS, elements=lambda ids: ids),
    "min_tokens": Sampling(contract.MIN_TOKENS, off=0),
    "ignore_eos": Sampling(contract.IGNORE_EOS, off=False),
    "skip_special_tokens": Sampling(contract.SKIP_SPECIAL_TOKENS, off=True),
    "schema": Sampling(contract.JSON_SCHEMA, elements=_source),
    "regex": Sampling(contract.REGEX, elements=_source),
    "grammar": Sampling(contract.GRAMMAR, elements=_source),
    "top_tokens": Sampling(contract.LOGPROBS, field="logprobs"),
    "seed": Sampling(contract.SEED, elements=lambda seed: (fold_seed(seed),)),
    "generated": Sampling(contract.N, off=1, attribute="generated_if_said", field="n"),
    "priority": Sampling(contract.PRIORITY, off=0),
    # Of completions alone.
    "echo": Sampling(contract.ECHO, off=False),
    "suffix": Sampling(contract.SUFFIX, elements=_source),
}


@cache
def _table(kind: type[Request]) -> tuple[list[tuple[str, Sampling]], Callable[[Request], tuple[Any, ...]]]:
    """The rows that this kind of request has, and what reads all their attributes with one call."""
    rows = [(name, row) for name, row in SAMPLING.items() if hasattr(kind, row.attribute or name)]
    return rows, attrgetter(*(row.attribute or name for name, row in rows))


OURS = (contract.LARK, contract.LENIENT_SCHEMA, contract.MARK_BEGIN, contract.MARK_END, contract.PLAIN_SPANS)
"""No field of the client's is behind these."""


def params(request: Request) -> dict[str, str]:
    """Tensor, or part of a guide → the field of this request that it came from, to name in errors."""
    names = {sampling.tensor.name: sampling.field or name for name, sampling in SAMPLING.items()}
    names[contract.MAX_TOKENS.name] = request.token_limit[0]
    names[contract.PROMPT.name] = names[contract.PROMPT_TOKEN_IDS.name] = request.PROMPT_FIELD
    names[contract.JSON_SCHEMA.name] = next(iter(request.guides), "json_schema")
    names |= _functions(request)
    if request.guides:
        names[guide_parts.GUIDE] = request.guides[0]
    for ours in OURS:
        names[ours.name] = request.guides[0] if request.guides else "functions" if _is_older(request) else "tools"
    names[contract.PLAIN_SPANS.name] = request.PROMPT_FIELD
    names[contract.N.name] = "n" if request.generated == request.choices else "best_of"
    if request.repeat_penalty is not None:
        names[contract.REPETITION_PENALTY.name] = "repeat_penalty"
    return names


def _is_older(request: Request) -> bool:
    """Whether its tools are the older API's functions."""
    return isinstance(request, ChatRequest) and bool(request.functions)


def _functions(request: Request) -> dict[str, str]:
    """Part of a guide → the parameters of the function that it is for."""
    if not isinstance(request, ChatRequest):
        return {}
    tools = enumerate(request.tools or ())
    functions = enumerate(request.functions or ())
    return {
        **{guide_parts.of_function(tool.function.name): f"tools[{i}].function.parameters" for i, tool in tools},
        **{guide_parts.of_function(function.name): f"functions[{i}].parameters" for i, function in functions},
    }


def schema_inputs(request: Request, takes: Container[str]) -> dict[TensorSpec, Sequence[Any]]:
    """The request's JSON Schema for this backend, once for all prompts. Takes up to 15 ms."""
    if (schema := request.schema) is None or contract.JSON_SCHEMA.name not in takes:
        return {}
    inputs: dict[TensorSpec, Sequence[Any]] = {contract.JSON_SCHEMA: _source(closed(schema))}
    # A backend that doesn't list its inputs may refuse a tensor that no client set.
    if not request.strict_schema and takes is not EVERYTHING and contract.LENIENT_SCHEMA.name in takes:
        inputs[contract.LENIENT_SCHEMA] = [True]
    return inputs


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING: Container[str] = _Everything()
"""The inputs of a backend that does not say which tensors it takes."""


Inputs = Mapping[TensorSpec, tensors.Elements]


def infer_request(
    request: Request,
    prompt: Prompt,
    *,
    model: str,
    request_id: str,
    takes: Container[str] = EVERYTHING,
    ours: Inputs = MappingProxyType({}),
) -> ModelInferRequest:
    """Only what the client set is sent, so that everything else is the backend's default.

    `takes` are the names of the backend's inputs; `ours` is what this server asks for by itself, in place of what the
    client says. Raises UnsupportedParameter if the client set something that can't be said to this backend.
    """
    message = ModelInferRequest(model_name=model, id=request_id)
    spec = contract.PROMPT if isinstance(prompt, str) else contract.PROMPT_TOKEN_IDS
    if spec.name not in takes:
        raise UnsupportedParameter(
            request.PROMPT_FIELD, f"The model '{model}' takes no prompt in this form (it has no '{spec.name}' input)."
        )
    tensors.add_input(message, spec, [prompt.encode()] if isinstance(prompt, str) else prompt)

    for spec, elements in ours.items():
        tensors.add_input(message, spec, elements)
    rows, read = _table(type(request))
    for (name, sampling), value in zip(rows, read(request), strict=True):
        if value is None or sampling.tensor in ours:
            continue
        values = sampling.elements(value) if sampling.elements else (value,)
        if not values:
            continue
        if sampling.tensor.name in takes:
            tensors.add_input(message, sampling.tensor, values)
        elif list(values) != [sampling.off] and _was_set(request, name):
            field = params(request)[sampling.tensor.name]
            raise UnsupportedParameter(field, f"The model '{model}' does not support '{field}'.")
    return message


def _was_set(request: Request, name: str) -> bool:
    """False for the one default that we send ourselves: OpenAI's max_tokens of completions."""
    return name != "max_tokens" or getattr(request, request.token_limit[0]) is not None


def fold_seed(seed: int) -> int:
    """A 64-bit seed as a 32-bit one: those that fit stay as they are, of others the halves are combined."""
    if -(2**31) <= seed < 2**31:
        return seed
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return folded - 2**32 if folded >= 2**31 else folded
