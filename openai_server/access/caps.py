"""What one request may ask for. PURE. Each refusal names the field.

How many stop strings, tools, choices and inputs there may be at all is in the schemas; the length of a rendered chat
is limited by the template's budget, the source of a template in `chat/template.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import orjson

from openai_server.api.schemas import ChatRequest, CompletionRequest, Prompt
from openai_server.api.schemas.requests import Request
from openai_server.api.schemas_tasks import (
    ContentToTokenize,
    DetokenizeRequest,
    EmbeddingRequest,
    PromptToTokenize,
    RerankRequest,
    TaskRequest,
)
from openai_server.core.errors import AboveLimit

R = TypeVar("R", bound=Request)
_MOST_GROWTH = 5
"""Times as long as a JSON value was sent, it may be written: `1e15` becomes `1000000000000000.0`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """0 is no limit. `prompt` counts characters, or token ids; `schema` bytes of JSON, or of another guide."""

    output_tokens: int = 0
    n: int = 0
    prompt: int = 0
    schema: int = 0

    def applied(self, request: R, body_size: int) -> R:
        """The request, which ends at the limit if it names no end. Raises AboveLimit."""
        if self.n:
            self._check_n(request)
        if self.prompt and isinstance(request, CompletionRequest):
            self.check_prompts("prompt", request.prompts, several=isinstance(request.prompt, list))
            self.check_prompts("suffix", [request.suffix or ""])
        if self.schema and body_size * _MOST_GROWTH > self.schema:  # else nothing in it can be larger
            self._check_schemas(request)
        if not self.output_tokens:
            return request
        field, asked = request.token_limit
        if asked is not None and asked <= self.output_tokens:
            return request
        if asked is None:
            return msgspec.structs.replace(request, max_tokens=self.output_tokens)
        if getattr(request, field) is None:  # OpenAI's default
            return msgspec.structs.replace(request, **{field: self.output_tokens})
        raise AboveLimit(field, f"is above this server's limit of {self.output_tokens} tokens", of="integer")

    def check_task(self, request: TaskRequest) -> None:
        """Raises AboveLimit."""
        match request:
            case EmbeddingRequest():
                self.check_prompts("input", request.prompts, several=isinstance(request.input, list))
            case RerankRequest():
                self.check_prompts("query", [request.query])
                self.check_prompts("documents", request.texts, several=True)
            case ContentToTokenize():
                self.check_prompts("content", [request.content])
            case PromptToTokenize():
                self.check_prompts("prompt", [request.prompt])
            case DetokenizeRequest():
                self.check_prompts("tokens", [request.tokens])

    def check_prompts(self, field: str, prompts: Sequence[Prompt], *, several: bool = False) -> None:
        """Raises AboveLimit."""
        if not self.prompt:
            return
        for i, prompt in enumerate(prompts):
            if len(prompt) > self.prompt:
                text = isinstance(prompt, str)
                raise AboveLimit(
                    f"{field}[{i}]" if several and (text or len(prompts) > 1) else field,
                    f"has more than {self.prompt} {'characters' if text else 'tokens'}, this server's limit",
                    of="string" if text else "array",
                )

    def _check_n(self, request: Request) -> None:
        for field in ("n", "best_of"):
            if (getattr(request, field, None) or 0) > self.n:
                raise AboveLimit(field, f"is above this server's limit of {self.n}", of="integer")

    def _check_schemas(self, request: Request) -> None:
        for field, size in _guides(request):
            if size > self.schema:
                raise AboveLimit(field, f"is larger than {self.schema} bytes, this server's limit", of="string")


def _guides(request: Request) -> Iterable[tuple[str, int]]:
    """What has to be compiled before the first token, with its size."""
    for field in request.guides:
        if field in ("regex", "grammar"):
            yield field, len(getattr(request, field).encode())
        else:
            yield field, len(orjson.dumps(request.schema))
    if isinstance(request, ChatRequest):
        for i, tool in enumerate(request.tools or ()):
            yield f"tools[{i}].function.parameters", len(orjson.dumps(tool.function.parameters))
        for i, function in enumerate(request.functions or ()):
            yield f"functions[{i}].parameters", len(orjson.dumps(function.parameters))
