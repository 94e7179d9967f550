"""Requests that generate nothing to tensors.

PURE. Each call is for one text.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from openai_server.backends.dialects.base import Target
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.tasks import EmbeddingOptions, TokenizeOptions
from openai_server.core.turn import Prompt
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest

EMBEDDING: dict[str, TensorSpec] = {
    "dimensions": contract.DIMENSIONS,
    "normalize": contract.NORMALIZE,
    "pooling": contract.POOLING,
}
"""Option → tensor. The client's field has the name of the option."""

EMBEDDING_PARAMS = {
    contract.PROMPT.name: "input",
    contract.PROMPT_TOKEN_IDS.name: "input",
    **{spec.name: field for field, spec in EMBEDDING.items()},
}
"""Tensor → the field that it came from, to name in errors; so are those below."""
RERANK_PARAMS = {contract.QUERY.name: "query", contract.DOCUMENT.name: "documents"}
DETOKENIZE_PARAMS = {contract.TOKENS_TO_TEXT.name: "tokens"}


Input = tuple[TensorSpec, tensors.Elements | tensors.Packed, str]
"""With the field that it came from."""


def embed(prompt: Prompt, options: EmbeddingOptions, to: Target) -> ModelInferRequest:
    """Raises UnsupportedParameter, as all of these do, for an option that this backend has no input for."""
    inputs: list[Input] = [
        (contract.PROMPT, [prompt.encode()], "input")
        if isinstance(prompt, str)
        else (contract.PROMPT_TOKEN_IDS, prompt, "input")
    ]
    for field, spec in EMBEDDING.items():
        value = getattr(options, field)
        if value is not None:
            inputs.append((spec, [value.encode() if isinstance(value, str) else value], field))
    return _message(contract.TASK_EMBED, to, [*inputs, *_priority(options.priority)])


def rank(query: str, document: str, priority: int | None, to: Target) -> ModelInferRequest:
    texts: list[Input] = [
        (contract.QUERY, [query.encode()], "query"),
        (contract.DOCUMENT, [document.encode()], "documents"),
    ]
    return _message(contract.TASK_RANK, to, [*texts, *_priority(priority)])


def _priority(priority: int | None) -> list[Input]:
    """Empty for 0, the default."""
    return [(contract.PRIORITY, [priority], "priority")] if priority else []


def tokenize(
    text: str, plain_spans: Sequence[tuple[int, int]], options: TokenizeOptions, to: Target
) -> ModelInferRequest:
    """`plain_spans` are in bytes of UTF-8; what is in them is text, whatever it reads as."""
    names = options.names
    inputs: list[Input] = [
        (contract.TEXT_TO_TOKENIZE, [text.encode()], names["text"]),
        (contract.ADD_SPECIAL, [options.add_special], names["add_special"]),
    ]
    if options.parse_special is not None:
        inputs.append((contract.PARSE_SPECIAL, [options.parse_special], "parse_special"))
    if plain_spans:
        inputs.append((contract.PLAIN_SPANS, list(chain.from_iterable(plain_spans)), names["text"]))
    return _message(contract.TASK_TOKENIZE, to, inputs)


def detokenize(tokens: list[int] | tensors.Packed, to: Target) -> ModelInferRequest:
    return _message(contract.TASK_DETOKENIZE, to, [(contract.TOKENS_TO_TEXT, tokens, "tokens")])


def _message(task: str, to: Target, inputs: Iterable[Input]) -> ModelInferRequest:
    message = ModelInferRequest(model_name=to.model, id=to.id)
    message.parameters[contract.PARAM_TASK].string_param = task
    for spec, elements, field in inputs:
        if spec.name not in to.input_names:
            raise UnsupportedParameter(field, f"The model '{to.model}' does not support '{field}'.")
        tensors.add_input(message, spec, elements)
    return message
