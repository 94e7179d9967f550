"""One body to one request: decoded, validated and within this server's limits. PURE.

Runs in the event loop for what is cheap and in a helper process for what is not, and does the same in both.
"""

from collections.abc import Callable, Sequence
from typing import Any

from openai_server.access.caps import Caps
from openai_server.api import schemas, schemas_tasks
from openai_server.api.schemas import ChatRequest, CompletionRequest, GenerateRequest
from openai_server.api.schemas_tasks import DetokenizeRequest, EmbeddingRequest
from openai_server.core.turn import Prompt
from protos import contract, tensors

Parse = Callable[[bytes], Any]

PARSERS: dict[str, Parse] = {
    parse.__name__: parse
    for parse in (
        schemas.parse_completion,
        schemas.parse_chat,
        schemas_tasks.parse_embedding,
        schemas_tasks.parse_rerank,
        schemas_tasks.parse_tokenize,
        schemas_tasks.parse_detokenize,
        schemas_tasks.parse_template,
    )
}
"""By the name under which a helper process is asked for one."""

PACKED_IDS = 1024
"""Token ids from which on a list is sent from a helper process in the form of the wire."""


def validated(parse: Parse, body: bytes | bytearray, caps: Caps) -> Any:
    """Raises InvalidRequest."""
    request = parse(body)  # type: ignore[arg-type]  # orjson takes both
    if parse is schemas_tasks.parse_template:
        return request.turn()
    if isinstance(request, CompletionRequest | ChatRequest):
        turn = caps.applied(request.turn(), request.prompt_fields(), len(body))
        return GenerateRequest(turn, bool(request.stream), request.include_usage)
    caps.check_fields(request.prompt_fields(), len(body))
    return request


def compact(request: Any) -> Any:
    """The request, with long lists of token ids packed: a million of them are one object then."""
    match request:
        case GenerateRequest(turn=turn):
            turn.prompts = _packed_prompts(turn.prompts)
        case EmbeddingRequest():
            request.input = _packed(request.input)
        case DetokenizeRequest():
            request.tokens = _packed(request.tokens)
    return request


def _packed_prompts(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """One prompt is packed if it is long, several always."""
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
