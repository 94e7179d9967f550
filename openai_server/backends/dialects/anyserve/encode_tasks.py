"""Requests that generate nothing to tensors.

PURE. Each call is for one text.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import chain

from openai_server.api.schemas import Prompt
from openai_server.api.schemas_tasks import ContentToTokenize, EmbeddingRequest, RerankRequest, TokenizeRequest
from openai_server.core.errors import UnsupportedParameter
from openai_server.prompting.plain_fields import ChatPrompt
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest

EMBEDDING: dict[str, TensorSpec] = {
    "dimensions": contract.DIMENSIONS,
    "normalize": contract.NORMALIZE,
    "pooling": contract.POOLING,
}
"""Attribute of the request → tensor."""

EMBEDDING_PARAMS = {
    contract.PROMPT.name: "input",
    contract.PROMPT_TOKEN_IDS.name: "input",
    **{spec.name: field for field, spec in EMBEDDING.items()},
}
"""Tensor → the field that it came from, to name in errors; so are those below."""
RERANK_PARAMS = {contract.QUERY.name: "query", contract.DOCUMENT.name: "documents"}
DETOKENIZE_PARAMS = {contract.TOKENS_TO_TEXT.name: "tokens"}


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a call is for: a model, the names of its inputs, and the call's id."""

    model: str
    takes: Container[str]
    id: str


Input = tuple[TensorSpec, tensors.Elements | tensors.Packed, str]
"""With the field that it came from."""


def embed(request: EmbeddingRequest, prompt: Prompt, to: Target) -> ModelInferRequest:
    """Raises UnsupportedParameter, as all of these do, for what can't be said to this backend."""
    inputs: list[Input] = [
        (contract.PROMPT, [prompt.encode()], "input")
        if isinstance(prompt, str)
        else (contract.PROMPT_TOKEN_IDS, prompt, "input")
    ]
    for field, spec in EMBEDDING.items():
        value = getattr(request, field)
        if value is not None:
            inputs.append((spec, [value.encode() if isinstance(value, str) else value], field))
    return _message(contract.TASK_EMBED, to, [*inputs, *_priority(request.priority)])


def rank(request: RerankRequest, document: str, to: Target) -> ModelInferRequest:
    query: Input = (contract.QUERY, [request.query.encode()], "query")
    text: Input = (contract.DOCUMENT, [document.encode()], "documents")
    return _message(contract.TASK_RANK, to, [query, text, *_priority(request.priority)])


def _priority(priority: int | None) -> list[Input]:
    """Empty for 0, the default."""
    return [(contract.PRIORITY, [priority], "priority")] if priority else []


def tokenize(request: TokenizeRequest, prompt: ChatPrompt, field: str, to: Target) -> ModelInferRequest:
    """`field` is where the text came from."""
    if isinstance(request, ContentToTokenize):
        options: list[Input] = [
            (contract.ADD_SPECIAL, [request.add_special], "add_special"),
            (contract.PARSE_SPECIAL, [request.parse_special], "parse_special"),
        ]
    else:
        options = [(contract.ADD_SPECIAL, [request.add_special_tokens], "add_special_tokens")]
    if prompt.plain:
        options.append((contract.PLAIN_SPANS, list(chain.from_iterable(prompt.plain)), field))
    text: Input = (contract.TEXT_TO_TOKENIZE, [prompt.text.encode()], field)
    return _message(contract.TASK_TOKENIZE, to, [text, *options])


def detokenize(tokens: list[int] | tensors.Packed, to: Target) -> ModelInferRequest:
    return _message(contract.TASK_DETOKENIZE, to, [(contract.TOKENS_TO_TEXT, tokens, "tokens")])


def _message(task: str, to: Target, inputs: Iterable[Input]) -> ModelInferRequest:
    message = ModelInferRequest(model_name=to.model, id=to.id)
    message.parameters[contract.PARAM_TASK].string_param = task
    for spec, elements, field in inputs:
        if spec.name not in to.takes:
            raise UnsupportedParameter(field, f"The model '{to.model}' does not support '{field}'.")
        tensors.add_input(message, spec, elements)
    return message
