"""Parsers turn a body into a validated request. PURE.

A parser is a module's function, so a helper process can find it by the names of both: the event loop and the helper
processes run the same parsers.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeVar

from openai_server.access.caps import Caps
from openai_server.api.schemas import GenerateRequest
from openai_server.api.schemas_tasks import DetokenizeRequest, EmbeddingRequest
from openai_server.core.turn import Prompt
from protos import contract, tensors

R = TypeVar("R")
Parse = Callable[[bytes, Caps], R]
"""Returns the request, decoded, validated and within this server's limits. Raises InvalidRequest."""

PACKED_IDS = 1024
"""Length from which on a helper process returns a list of token ids in its wire format."""


def name_of(parse: Parse[Any]) -> str:
    return f"{parse.__module__}:{parse.__name__}"


def named(name: str) -> Parse[Any]:
    """The parser with this name, as `name_of` returns it."""
    module, _, function = name.partition(":")
    parse: Parse[Any] = getattr(import_module(module), function)
    return parse


def compact(request: Any) -> Any:
    """The request with long lists of token ids packed: a million token ids become one object."""
    match request:
        case GenerateRequest(turn=turn):
            turn.prompts = _packed_prompts(turn.prompts)
        case EmbeddingRequest():
            request.input = _packed(request.input)
        case DetokenizeRequest():
            request.tokens = _packed(request.tokens)
    return request


def _packed_prompts(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """A single prompt is packed if it is long, several prompts always."""
    if not prompts or isinstance(prompts[0], str):
        return prompts
    return [_packed(prompts[0])] if len(prompts) == 1 else _packed(prompts)


def _packed(prompts: Any) -> Any:
    if not isinstance(prompts, list) or not prompts:
        return prompts
    if isinstance(prompts[0], list):
        return [tensors.packed(contract.PROMPT_TOKEN_IDS.datatype, ids) for ids in prompts]
    if isinstance(prompts[0], int) and len(prompts) >= PACKED_IDS:
        return tensors.packed(contract.PROMPT_TOKEN_IDS.datatype, prompts)
    return prompts
