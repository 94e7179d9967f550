"""Translates the system prompt and the messages of a request to the messages of a turn. PURE.

Consecutive messages of one role become one message, as in Anthropic's API, since many templates require alternation.
The translation of a message depends only on those before it, so that a growing conversation keeps its prefix.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from openai_server.api.documents import document, tagged
from openai_server.api.messages.blocks import (
    AssistantMessageParam,
    Base64Source,
    Block,
    CompactionBlockParam,
    ContentSource,
    DocumentBlockParam,
    FileSource,
    ImageBlockParam,
    McpToolResultBlockParam,
    MessageParam,
    PlainTextSource,
    ResultBlock,
    SearchResultBlockParam,
    SystemContent,
    SystemMessageParam,
    TextBlockParam,
    ThinkingBlockParam,
    ToolReferenceBlockParam,
    ToolResultBlockParam,
    ToolUseBlockParam,
    UrlSource,
    UserMessageParam,
)
from openai_server.api.schemas import bounds
from openai_server.api.sealed_items import SealedItem, joined
from openai_server.core.errors import AboveLimit, InvalidRequest, UnsupportedParameter
from openai_server.core.messages import (
    AnswerPart,
    AssistantMessage,
    Content,
    ContentPart,
    FilePart,
    FunctionCall,
    Message,
    NamedFile,
    PromptFile,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.core.sealing import is_sealed

BILLING = "x-anthropic-billing-header:"
"""Begins a block of the system prompt that Claude Code changes with each request, for Anthropic's own servers."""


class Translation(NamedTuple):
    messages: list[Message]
    fields: list[str]
    """Path of each message in the request; of the first one, if it combines several."""
    sealed: list[SealedItem]
    """Reasoning that this server sealed in an earlier response, since the client omitted its text."""
    pieces: dict[int, list[str]]
    """The reasoning of messages with sealed reasoning, by position."""


def translated(system: SystemContent | None, messages: Sequence[MessageParam]) -> Translation:
    """Raises InvalidRequest, which names the block."""
    conversation = _Conversation()
    if system:
        conversation.add_system(_without_billing(system), "system")
    last_user = max((i for i, message in enumerate(messages) if isinstance(message, UserMessageParam)), default=-1)
    for i, message in enumerate(messages):
        place = f"messages[{i}].content"
        match message:
            case SystemMessageParam(content=content, clear_at=clear_at):
                if clear_at != "next_user_message" or i > last_user:
                    conversation.add_system(content, place)
            case UserMessageParam(content=content):
                conversation.add_user(content, place)
            case AssistantMessageParam(content=content):
                conversation.add_answer(content, place)
    if not conversation.messages:
        raise InvalidRequest("'messages' have no content for the model.", param="messages")
    _check_last(messages[-1], conversation.messages[-1], f"messages[{len(messages) - 1}].content")
    return Translation(conversation.messages, conversation.fields, conversation.sealed, conversation.pieces)


def continues_answer(messages: Sequence[Message]) -> bool:
    """Whether the model must continue the last message, which is an answer that the client has begun."""
    return isinstance(messages[-1], AssistantMessage)


def _check_last(param: MessageParam, last: Message, place: str) -> None:
    if not isinstance(last, AssistantMessage):
        return
    if last.tool_calls:
        ids = ", ".join(call.id for call in last.tool_calls)
        raise InvalidRequest(
            f"'{place}' has `tool_use` ids without `tool_result` blocks after them: {ids}.", param=place
        )
    if last.content is None:
        raise InvalidRequest(f"'{place}' has no text that the answer could continue.", param=place)


def _without_billing(system: SystemContent) -> SystemContent:
    """The system prompt without the block, or the first line, with BILLING."""
    if isinstance(system, str):
        return system.partition("\n")[2].lstrip("\n") if system.startswith(BILLING) else system
    return system[1:] if system[0].text.startswith(BILLING) else system


class _Conversation:
    """The messages so far."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.fields: list[str] = []
        """Path of each message."""
        self.sealed: list[SealedItem] = []
        self.pieces: dict[int, list[str]] = {}
        self._reasoning: list[str] = []
        """Pieces of the reasoning of the last answer; empty where it is sealed."""
        self._next_result: int | None = None
        """Position of the next result: after the calls of the last answer. None: it has no calls."""
        self._n_parts = self._n_values = 0

    def _append(self, message: Message, place: str) -> None:
        self.messages.append(message)
        self.fields.append(place)

    def add_system(self, content: SystemContent, place: str) -> None:
        if content:
            self._append(SystemMessage(content if isinstance(content, str) else _parts(content)), place)

    # ---- The user

    def add_user(self, content: str | list[Block], place: str) -> None:
        if isinstance(content, str):
            self._add_text(content, place)
            return
        for i, block in enumerate(content):
            if isinstance(block, ToolResultBlockParam):
                self._add_result(block, f"{place}[{i}]")
        for i, block in enumerate(content):
            path = f"{place}[{i}]"
            if isinstance(block, ToolUseBlockParam):
                raise InvalidRequest(f"'{path}': a tool_use block belongs to the assistant.", param=path)
            for piece in _pieces(block, path):
                self._add_text(piece, place)

    def _add_text(self, piece: str | FilePart, place: str) -> None:
        last = self.messages[-1] if self.messages else None
        if not isinstance(last, UserMessage):
            self._append(UserMessage(piece if isinstance(piece, str) else [piece]), place)
        elif isinstance(last.content, str):
            last.content = [TextPart(last.content), _part(piece)]
        else:
            last.content.append(_part(piece))

    def _add_result(self, block: ToolResultBlockParam, place: str) -> None:
        """Adds a result right after its call, where templates expect it, also if other messages came between."""
        message = ToolMessage(self._result(block, place), block.tool_use_id)
        if self._next_result is None:
            self._append(message, place)
            return
        self.messages.insert(self._next_result, message)
        self.fields.insert(self._next_result, place)
        self._next_result += 1

    def _result(self, result: ToolResultBlockParam, place: str) -> Content:
        """The text of a result, in parts if it has files."""
        content = result.content or ""
        if isinstance(content, str):
            return f"<error>\n{content}\n</error>" if result.is_error else content
        self._count(len(content), place)
        blocks = enumerate(content)
        pieces = [piece for i, block in blocks for piece in _pieces(block, f"{place}.content[{i}]")]
        if result.is_error:
            pieces = ["<error>", *pieces, "</error>"]
        if any(isinstance(piece, FilePart) for piece in pieces):
            return [_part(piece) for piece in pieces]
        return "\n".join(map(str, pieces))

    def _count(self, n_parts: int, place: str) -> None:
        self._n_parts += n_parts
        if self._n_parts > bounds.MAX_PARTS:
            problem = f"has too many content blocks in all tool results together, at most {bounds.MAX_PARTS}"
            raise AboveLimit(place, problem, kind="array")

    # ---- The assistant

    def add_answer(self, content: str | list[Block], place: str) -> None:
        last = self.messages[-1] if self.messages else None
        answer, position = AssistantMessage(), len(self.messages)
        if isinstance(last, AssistantMessage):
            answer, position = last, position - 1
        else:
            self._reasoning = []
        n_sealed = len(self.sealed)
        if isinstance(content, str):
            content = [TextBlockParam(content)]
        for i, block in enumerate(content):
            path = f"{place}[{i}]"
            match block:
                case ThinkingBlockParam(thinking=thinking, signature=signature):
                    if not thinking and signature and is_sealed(signature):
                        item = SealedItem(
                            kind="reasoning",
                            text=signature,
                            field=f"{path}.signature",
                            message=position,
                            piece=len(self._reasoning),
                            has_plain_text=True,  # one of another server is left out, as redacted thinking is
                        )
                        self.sealed.append(item)
                    self._reasoning.append(thinking)
                case ToolUseBlockParam(id=id, name=name, input=input):
                    call = ToolCall(id, FunctionCall(name, self._arguments(input, f"{path}.input")))
                    if answer.tool_calls is None:
                        answer.tool_calls = []
                    answer.tool_calls.append(call)
                case ToolResultBlockParam():
                    raise InvalidRequest(f"'{path}': a tool_result block belongs to the user.", param=path)
                case _:
                    for text in _texts(block, path):
                        _add_part(answer, text)
        answer.reasoning_content = joined(self._reasoning)
        has_sealed = len(self.sealed) > n_sealed
        if has_sealed:
            self.pieces[position] = self._reasoning
        is_empty = answer.content is None and not (answer.tool_calls or answer.reasoning_content or has_sealed)
        if answer is not last and not is_empty:
            self._append(answer, place)
        if not is_empty:
            self._next_result = len(self.messages) if answer.tool_calls else None

    def _arguments(self, input: dict[str, Any], place: str) -> str:
        """The arguments as models write them, with spaces. Raises AboveLimit for nested or too many values."""
        nested: Any = input
        for _ in range(bounds.ORJSON_DEPTH - bounds.MAX_DEPTH):
            nested = [nested]
        try:
            self._n_values += bounds.n_values(orjson.dumps(nested))
        except TypeError:  # the only reason that decoded JSON can't be written
            raise AboveLimit(place, f"has too many nested levels, at most {bounds.MAX_DEPTH}", kind="array") from None
        if self._n_values > bounds.MAX_NESTED_VALUES:
            problem = f"has too many JSON values, at most {bounds.MAX_NESTED_VALUES}"
            raise AboveLimit(place, problem, kind="array")
        return json.dumps(input, ensure_ascii=False)


def _add_part(answer: AssistantMessage, text: str) -> None:
    if answer.content is None:
        answer.content = text
    elif isinstance(answer.content, str):
        answer.content = [AnswerPart(answer.content), AnswerPart(text)]
    else:
        answer.content.append(AnswerPart(text))


def _parts(blocks: Sequence[TextBlockParam]) -> Any:
    return blocks[0].text if len(blocks) == 1 else [TextPart(block.text) for block in blocks]


def _part(piece: str | FilePart) -> ContentPart:
    return TextPart(piece) if isinstance(piece, str) else piece


def _pieces(block: Block | ResultBlock, place: str) -> Iterator[str | FilePart]:
    """The texts of a block that go into the prompt, and its file. Raises UnsupportedParameter for an image."""
    if isinstance(block, DocumentBlockParam) and (file := _file(block, f"{place}.source")) is not None:
        yield file
    else:
        yield from _texts(block, place)


def _file(block: DocumentBlockParam, place: str) -> NamedFile | None:
    """The file of a document; None if its text is in the request."""
    match block.source:
        case Base64Source(data=data):
            source, name, url = PromptFile(file_data=data), "data", None
        case FileSource(file_id=id):
            source, name, url = PromptFile(file_id=id), "file_id", None
        case UrlSource(url=url):
            source, name = PromptFile(), "url"
        case _:
            return None
    return NamedFile(source, field=f"{place}.{name}", url=url, context=block.context, title=block.title)


def _texts(block: Block | ResultBlock, place: str) -> Iterator[str]:
    """The texts of a block that go into the prompt. Raises UnsupportedParameter for an image, and for a document that
    isn't text."""
    match block:
        case TextBlockParam(text=text):
            yield text
        case SearchResultBlockParam():
            text = "\n".join(part.text for part in block.content)
            yield tagged("search_result", text, title=block.title, source=block.source)
        case DocumentBlockParam():
            yield document(_document_text(block, place), block.title, block.context)
        case ImageBlockParam():
            raise _unreadable(place, "image")
        case McpToolResultBlockParam(content=str(content)):
            yield content
        case McpToolResultBlockParam(content=list(parts)):
            yield from (part.text for part in parts)
        case CompactionBlockParam(content=str(content)):
            yield content
        case ToolReferenceBlockParam(tool_name=name):
            yield name


def _document_text(block: DocumentBlockParam, place: str) -> str:
    match block.source:
        case PlainTextSource(data=data):
            return data
        case ContentSource(content=str(content)):
            return content
        case ContentSource(content=list(parts)):
            texts = []
            for i, part in enumerate(parts):
                if isinstance(part, ImageBlockParam):
                    raise _unreadable(f"{place}.source.content[{i}]", "image")
                texts.append(part.text)
            return "\n".join(texts)
    raise _unreadable(place, f"document with the source '{block.source.__struct_config__.tag}'")


def _unreadable(place: str, kind: str) -> UnsupportedParameter:
    return UnsupportedParameter(place, f"'{place}': this server reads no {kind}; send its text instead.")
