"""Responses of the endpoints for tokens, in the forms of llama-server, vLLM and OpenAI. PURE."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from openai_server.api.schemas_tasks import ContentToTokenize, MessagesToTokenize, PromptToTokenize, TokenizeRequest


class Piece(Struct):
    id: int
    piece: str | list[int]
    """Text, or a list of bytes if the piece is not valid UTF-8."""


class ContentTokens(Struct):
    """llama-server's response form."""

    tokens: list[int | Piece]


class PromptTokens(Struct):
    """vLLM's response form."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | UnsetType = UNSET


class DetokenizedText(Struct):
    content: str
    """llama-server's field."""
    prompt: str
    """vLLM's field, for the same text."""


class RenderedPrompt(Struct):
    prompt: str


class TokenizerInfo(Struct, kw_only=True):
    """vLLM's response form: fields of Hugging Face's `tokenizer_config.json`. Absent is unknown."""

    bos_token: str | UnsetType = UNSET
    eos_token: str | UnsetType = UNSET
    pad_token: str | UnsetType = UNSET
    add_bos_token: bool | UnsetType = UNSET
    """Whether the BOS is added to a prompt that doesn't begin with it."""
    model_max_length: int | UnsetType = UNSET
    """Tokens of a prompt and its answer together."""
    chat_template: str | UnsetType = UNSET
    """Jinja source of the template that the server renders for chats without tools."""


_TOKENS = ("bos_token", "eos_token", "pad_token")


def tokenizer_info(parameters: Mapping[str, str], context_length: int | None) -> TokenizerInfo:
    """`parameters` are those of a directory.Model."""
    info = TokenizerInfo()
    for name in _TOKENS:
        setattr(info, name, parameters.get(name, UNSET))
    if (adds_bos := parameters.get("add_bos_token")) is not None:
        info.add_bos_token = adds_bos == "true"
    if context_length is not None:
        info.model_max_length = context_length
    if template := parameters.get("chat_template"):
        info.chat_template = template
    return info


class InputTokens(Struct):
    """The form of OpenAI's `/responses/input_tokens`, which llama-server uses for chats too."""

    object: Literal["response.input_tokens"]
    input_tokens: int


def tokens(
    request: TokenizeRequest, ids: Sequence[int], pieces: Sequence[bytes], max_model_len: int | None
) -> ContentTokens | PromptTokens:
    if isinstance(request, ContentToTokenize):
        if not request.with_pieces:
            return ContentTokens(list(ids))
        return ContentTokens([Piece(id, _piece(piece)) for id, piece in zip(ids, pieces, strict=True)])
    assert isinstance(request, PromptToTokenize | MessagesToTokenize)
    texts = [piece.decode(errors="replace") for piece in pieces] if request.return_token_strs else UNSET
    return PromptTokens(len(ids), max_model_len, list(ids), texts)


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
