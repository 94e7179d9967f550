"""One body to one request: decoded, validated and within this server's limits. PURE.

Runs in the event loop for what is cheap and in a helper process for what is not, and does the same in both.
"""

from collections.abc import Callable
from typing import Any

from openai_server.access.caps import Caps
from openai_server.api import schemas, schemas_tasks
from openai_server.api.schemas import ChatRequest, CompletionRequest
from openai_server.api.schemas_tasks import DetokenizeRequest, EmbeddingRequest, TaskRequest
from protos import contract, tensors

AnyRequest = CompletionRequest | ChatRequest | TaskRequest
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
        return request
    if isinstance(request, CompletionRequest | ChatRequest):
        return caps.applied(request, len(body))
    caps.check_task(request)
    return request


def compact(request: Any) -> Any:
    """The request, with long lists of token ids packed: a million of them are one object then."""
    match request:
        case CompletionRequest():
            request.prompt = _packed(request.prompt)
        case EmbeddingRequest():
            request.input = _packed(request.input)
        case DetokenizeRequest():
            request.tokens = _packed(request.tokens)
    return request


def _packed(prompts: Any) -> Any:
    if not isinstance(prompts, list) or not prompts:
        return prompts
    if isinstance(prompts[0], list):
        return [tensors.packed(contract.PROMPT_TOKEN_IDS.datatype, ids) for ids in prompts]
    if isinstance(prompts[0], int) and len(prompts) >= PACKED_IDS:
        return tensors.packed(contract.PROMPT_TOKEN_IDS.datatype, prompts)
    return prompts
