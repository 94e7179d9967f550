"""JSON to validated requests of the endpoints that don't generate: embeddings, rerank, tokenize, detokenize.

PURE. As in `schemas/fields.py`, no field is accepted and silently ignored.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from openai_server.api.schemas import (
    NO_EFFECT,
    REQUESTS,
    ChatRequest,
    Fields,
    ListOf,
    Text,
    TokenId,
    bounds,
    convert,
    dialects,
    load,
    mapped,
    parse_chat,
    parse_messages,
    prompts_of,
)
from openai_server.api.schemas.bounds import MAX_INPUTS
from openai_server.core.errors import InvalidRequest
from openai_server.core.tasks import EmbeddingOptions, TokenizeOptions
from openai_server.core.turn import Prompt, PromptField, Turn
from protos import contract

Priority = Annotated[int, Meta(ge=0, le=contract.INT32_MAX)]
Positive = Annotated[int, Meta(ge=1, le=contract.INT32_MAX)]
Tokens = Annotated[list[TokenId], Meta(min_length=1)]


class EmbeddingRequest(Struct, kw_only=True):
    input: Text | Annotated[list[Text | TokenId | Tokens], Meta(min_length=1)]
    model: str | None = None
    dimensions: Positive | None = None
    encoding_format: Literal["float", "base64"] | None = None
    # Extensions: `normalize` and `priority` are from vLLM, `pooling` is this server's own.
    normalize: bool | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    priority: Priority | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """Raises InvalidRequest for a list of several kinds."""
        return prompts_of(self.input, "input")

    @property
    def options(self) -> EmbeddingOptions:
        return EmbeddingOptions(
            dimensions=self.dimensions, normalize=self.normalize, pooling=self.pooling, priority=self.priority
        )

    def prompt_fields(self) -> Iterable[PromptField]:
        """The fields whose length the server may limit; the same in the other Structs."""
        yield PromptField("input", self.prompts, isinstance(self.input, list))


class TextDocument(Struct):
    text: str


class RerankRequest(Struct, kw_only=True):
    query: Text
    documents: Annotated[list[str | TextDocument], Meta(min_length=1, max_length=MAX_INPUTS)]
    model: str | None = None
    top_n: Annotated[int, Meta(ge=0, le=contract.INT32_MAX)] | None = None  # 0: all, as in vLLM
    return_documents: bool | None = None
    priority: Priority | None = None

    @property
    def texts(self) -> list[str]:
        return [document if isinstance(document, str) else document.text for document in self.documents]

    def prompt_fields(self) -> Iterable[PromptField]:
        yield PromptField("query", [self.query])
        yield PromptField("documents", self.texts, is_list=True)


class ContentToTokenize(Struct, kw_only=True):
    """llama-server's request form."""

    content: str
    model: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False

    @property
    def options(self) -> TokenizeOptions:
        names = {"text": "content", "add_special": "add_special"}
        return TokenizeOptions(add_special=self.add_special, parse_special=self.parse_special, names=names)

    def prompt_fields(self) -> Iterable[PromptField]:
        yield PromptField("content", [self.content])


class PromptToTokenize(Struct, kw_only=True):
    """vLLM's request form."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @property
    def options(self) -> TokenizeOptions:
        names = {"text": "prompt", "add_special": "add_special_tokens"}
        return TokenizeOptions(add_special=self.add_special_tokens, names=names)

    def prompt_fields(self) -> Iterable[PromptField]:
        yield PromptField("prompt", [self.prompt])


class MessagesToTokenize(Struct, kw_only=True):
    """vLLM's request form for a chat. The chat template adds the special tokens."""

    messages: Any
    """Messages of a chat, checked by `parse_tokenize`."""
    model: str | None = None
    add_special_tokens: bool = False
    return_token_strs: bool = False

    @property
    def options(self) -> TokenizeOptions:
        names = {"text": "messages", "add_special": "add_special_tokens"}
        return TokenizeOptions(add_special=self.add_special_tokens, names=names)

    def prompt_fields(self) -> Iterable[PromptField]:
        return ()

    def turn(self) -> Turn:
        return ChatRequest(messages=self.messages).turn()


class DetokenizeRequest(Struct, kw_only=True):
    tokens: list[TokenId]
    model: str | None = None

    def prompt_fields(self) -> Iterable[PromptField]:
        yield PromptField("tokens", [self.tokens])


TokenizeRequest = ContentToTokenize | PromptToTokenize | MessagesToTokenize
TaskRequest = EmbeddingRequest | RerankRequest | TokenizeRequest | DetokenizeRequest

EMBEDDING_FIELDS = REQUESTS.fields(mapped(EmbeddingRequest), NO_EFFECT, dialects.EMBEDDINGS)
DOCUMENT_FIELDS = Fields(mapped(TextDocument), neutral={"multi_modal": ()})  # in vLLM's responses
RERANK_FIELDS = REQUESTS.fields(
    mapped(RerankRequest), NO_EFFECT, dialects.RERANK, {"documents": ListOf(DOCUMENT_FIELDS)}
)
CONTENT_FIELDS = REQUESTS.fields(mapped(ContentToTokenize), neutral=dialects.TOKENIZE_CONTENT)
PROMPT_FIELDS = REQUESTS.fields(mapped(PromptToTokenize), neutral=dialects.TOKENIZE_PROMPT)
MESSAGES_FIELDS = REQUESTS.fields(mapped(MessagesToTokenize), neutral=dialects.TOKENIZE_MESSAGES)
DETOKENIZE_FIELDS = REQUESTS.fields(mapped(DetokenizeRequest))


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Raises InvalidRequest."""
    payload = load(body)
    bounds.check_prompts("input", payload.get("input"), MAX_INPUTS)
    EMBEDDING_FIELDS.clean(payload)
    request = convert(payload, EmbeddingRequest)
    if len(request.prompts) > MAX_INPUTS:
        raise InvalidRequest(f"'input' has more than {MAX_INPUTS} items.", param="input")
    return request


def parse_rerank(body: bytes) -> RerankRequest:
    """Raises InvalidRequest."""
    payload = load(body)
    RERANK_FIELDS.clean(payload)
    request = convert(payload, RerankRequest)
    request.top_n = request.top_n or None
    return request


_FORMS: dict[str, tuple[type[TokenizeRequest], Fields]] = {
    "content": (ContentToTokenize, CONTENT_FIELDS),
    "prompt": (PromptToTokenize, PROMPT_FIELDS),
    "messages": (MessagesToTokenize, MESSAGES_FIELDS),
}


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """The field with the input decides the form of the request and its response. Raises InvalidRequest."""
    payload = {key: value for key, value in load(body).items() if value is not None or key not in _FORMS}
    forms = [name for name in _FORMS if name in payload]
    if len(forms) != 1:
        raise InvalidRequest(
            "Exactly one of 'content', 'prompt' and 'messages' must be set.", param=forms[-1] if forms else "prompt"
        )
    struct, fields = _FORMS[forms[0]]
    fields.clean(payload)
    request: TokenizeRequest = convert(payload, struct)
    if isinstance(request, MessagesToTokenize):
        request.messages = parse_messages(request.messages, len(body))
    return request


def parse_template(body: bytes) -> ChatRequest:
    """A chat to render without generating an answer. Raises InvalidRequest."""
    return parse_chat(body)


def parse_detokenize(body: bytes) -> DetokenizeRequest:
    """Raises InvalidRequest."""
    payload = load(body)
    DETOKENIZE_FIELDS.clean(payload)
    return convert(payload, DetokenizeRequest)
