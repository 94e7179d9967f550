"""Encodes requests that generate nothing as tensors: one call per text. PURE."""

from collections.abc import Iterable, Sequence
from itertools import chain

from openai_server.backends.dialects.base import Target
from openai_server.backends.dialects.inputs import unsupported
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
"""Tensor → the client's field that it came from, for errors. The two tables below have the same form."""
RERANK_PARAMS = {contract.QUERY.name: "query", contract.DOCUMENT.name: "documents"}
DETOKENIZE_PARAMS = {contract.TOKENS_TO_TEXT.name: "tokens"}


Input = tuple[TensorSpec, tensors.Elements | tensors.Packed, str]
"""Tensor, its elements, and the client's field that it came from."""


def embed(prompt: Prompt, options: EmbeddingOptions, to: Target) -> ModelInferRequest:
    """Raises UnsupportedParameter for an option that this backend has no input for, as do the functions below."""
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
    """The input for the priority; none for 0, the default."""
    return [(contract.PRIORITY, [priority], "priority")] if priority else []


def tokenize(
    text: str, plain_spans: Sequence[tuple[int, int]], options: TokenizeOptions, to: Target
) -> ModelInferRequest:
    """`plain_spans` are ranges of UTF-8 bytes whose contents never become control tokens."""
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
    message = ModelInferRequest(model_name=to.model, model_version=to.version, id=to.id)
    message.parameters[contract.PARAM_TASK].string_param = task
    for spec, elements, field in inputs:
        if spec.name not in to.input_names:
            raise unsupported(field, to.model)
        tensors.add_input(message, spec, elements)
    return message
