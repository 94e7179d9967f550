"""Input items as the messages of a turn. PURE.

An assistant's turn is one message: its reasoning, texts and calls are separate items in this API, in any order, and
become one message until a result or another role follows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from openai_server.api.responses.input.items import (
    CompactionInput,
    CustomToolCallInput,
    CustomToolCallOutputInput,
    FunctionCallInput,
    FunctionCallOutputInput,
    InputFileContent,
    InputPart,
    Item,
    MessageInput,
    Part,
    ReasoningInput,
    ShownInput,
)
from openai_server.api.responses.input.shown import ShownCall, shown
from openai_server.api.responses.input.toolbox import Toolbox
from openai_server.api.schemas.bounds import MAX_NESTED_VALUES, n_values, too_many_values
from openai_server.api.sealed_items import SealedItem, joined
from openai_server.core.errors import InvalidRequest, UnsupportedParameter
from openai_server.core.messages import (
    AnswerContent,
    AnswerPart,
    AssistantMessage,
    Content,
    ContentPart,
    CustomCall,
    CustomToolCall,
    DeveloperMessage,
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


@dataclass(slots=True)
class Conversation:
    messages: list[Message] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    """The path of each message in the request; of an answer, the path of its first item."""
    sealed: list[SealedItem] = field(default_factory=list)
    pieces: dict[int, Sequence[str]] = field(default_factory=dict)
    """The reasoning of messages with sealed reasoning, by position."""


class ItemFields(Struct, frozen=True):
    """The paths of items in the request. Those of the history, which come first, have that of the field that names
    it."""

    n_earlier: int = 0
    earlier: str = ""
    own: str = "input"
    """The field with the other items."""

    def path(self, position: int) -> str:
        return self.earlier if position < self.n_earlier else f"{self.own}[{position - self.n_earlier}]"


OWN_ITEMS = ItemFields()


def conversation(
    instructions: str | None, input: str | Sequence[Item], tools: Toolbox, fields: ItemFields = OWN_ITEMS
) -> Conversation:
    """Raises AboveLimit."""
    builder = _Builder(tools)
    if instructions:
        builder.add(SystemMessage(instructions), "instructions")
    if isinstance(input, str):
        builder.add(UserMessage(input), "input")
        return builder.result
    results = _next_results(input)
    for i, item in enumerate(input):
        builder.take(item, i, results.get(i, -1), fields.path(i))
    builder.end()
    return builder.result


def _next_results(items: Sequence[Item]) -> Mapping[int, int]:
    """Position of a call → position of its result, for the calls that have one. Clients may use an id twice."""
    seen: dict[str, int] = {}
    results = {}
    for i in reversed(range(len(items))):
        match items[i]:
            case FunctionCallOutputInput(call_id=id) | CustomToolCallOutputInput(call_id=id):
                seen[id] = i
            case FunctionCallInput(call_id=id) | CustomToolCallInput(call_id=id) if id in seen:
                results[i] = seen[id]
    return results


@dataclass(slots=True)
class _Answer:
    """An assistant's message that further items may belong to."""

    path: str
    """The path of its first item in the request."""
    reasoning: list[str] = field(default_factory=list)
    sealed: list[SealedItem] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall | CustomToolCall] = field(default_factory=list)

    def message(self) -> AssistantMessage:
        content: AnswerContent | None = self.texts[0] if self.texts else None
        if len(self.texts) > 1:
            content = [AnswerPart(text) for text in self.texts]
        return AssistantMessage(content, tool_calls=self.calls or None, reasoning_content=joined(self.reasoning))


class _Builder:
    def __init__(self, tools: Toolbox) -> None:
        self.result = Conversation()
        self._tools = tools
        self._answer: _Answer | None = None
        self._waits_until = -1
        """Position of the last result of the calls in the current answer."""
        self._held: list[tuple[Message, str]] = []
        """Messages between calls and their results. They follow the results: templates expect these first."""
        self._n_argument_values = 0

    def take(self, item: Item, position: int, result: int, field: str) -> None:
        """`result` is the position of a call's result; -1: it has none. `field` is the item's path."""
        match item:
            case MessageInput(role="assistant", content=content):
                self._answer_at(field).texts += filter(None, _texts_of_answer(content, field))
            case MessageInput(role=role, content=content):
                self._add_between(_ROLES[role](_content(content, f"{field}.content")), field, position)
            case ReasoningInput():
                self._add_reasoning(item, field)
            case FunctionCallInput(call_id=id, name=name, namespace=namespace, arguments=arguments):
                name = self._tools.name(namespace, name)
                self._add_call(ToolCall(id, FunctionCall(name, arguments)), field)
                self._waits_until = max(self._waits_until, result)
            case CustomToolCallInput(call_id=id, name=name, namespace=namespace, input=input):
                call = CustomCall(self._tools.name(namespace, name), input)
                self._answer_at(field).calls.append(CustomToolCall(id, call))
                self._waits_until = max(self._waits_until, result)
            case (
                FunctionCallOutputInput(call_id=id, output=output)
                | CustomToolCallOutputInput(call_id=id, output=output)
            ):
                self._add_result(ToolMessage(_content(output, f"{field}.output"), id), field, position)
            case CompactionInput(encrypted_content=text):
                self._end_answer()
                sealed = SealedItem(
                    kind="compaction",
                    text=text,
                    field=f"{field}.encrypted_content",
                    message=len(self.result.messages),
                )
                self.result.sealed.append(sealed)
                self.add(UserMessage(""), field)
            case _ if isinstance(item, ShownInput):
                self._show(item, field, position)

    def add(self, message: Message, field: str) -> None:
        self.result.messages.append(message)
        self.result.fields.append(field)

    def end(self) -> None:
        self._end_answer()

    def _answer_at(self, field: str) -> _Answer:
        """The answer that an item belongs to."""
        if self._held:
            self._end_answer()
        if self._answer is None:
            self._answer = _Answer(field)
        return self._answer

    def _end_answer(self) -> None:
        """Adds the current answer and the messages that were held back."""
        if (answer := self._answer) is not None:
            position = len(self.result.messages)
            self.result.sealed += (replace(item, message=position) for item in answer.sealed)
            if answer.sealed:
                self.result.pieces[position] = answer.reasoning
            self.add(answer.message(), answer.path)
        self._answer, self._waits_until = None, -1
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, []
        for message, path in held:
            self.add(message, path)

    def _add_between(self, message: Message, field: str, position: int) -> None:
        if position < self._waits_until:
            self._held.append((message, field))
            return
        self._end_answer()
        self.add(message, field)

    def _add_reasoning(self, item: ReasoningInput, field: str) -> None:
        content = "\n".join(_texts(item.content or ""))
        if item.encrypted_content:
            answer = self._answer_at(field)
            sealed = SealedItem(
                kind="reasoning",
                text=item.encrypted_content,
                field=f"{field}.encrypted_content",
                message=-1,  # known when the answer ends
                piece=len(answer.reasoning),
                has_plain_text=bool(content),
            )
            answer.sealed.append(sealed)
            answer.reasoning.append(content)
        elif text := content or "\n".join(_texts(item.summary or "")):
            self._answer_at(field).reasoning.append(text)

    def _add_call(self, call: ToolCall, field: str) -> None:
        """Raises AboveLimit. Templates loop over the arguments."""
        self._n_argument_values += n_values(call.function.arguments.encode(errors="surrogatepass"))
        if self._n_argument_values > MAX_NESTED_VALUES:
            raise too_many_values(f"{field}.arguments")
        self._answer_at(field).calls.append(call)

    def _add_result(self, message: ToolMessage, field: str, position: int) -> None:
        waits_until, held = self._waits_until, self._held
        self._held = []
        self._end_answer()
        self._waits_until, self._held = waits_until, held
        self.add(message, field)
        if position >= waits_until:
            self._release()

    def _show(self, item: ShownInput, field: str, position: int) -> None:
        for event in shown(item, field):
            if isinstance(event, ShownCall):
                self._add_call(ToolCall(event.id, FunctionCall(event.name, event.arguments)), field)
            else:
                self._add_result(ToolMessage(event.text, event.call_id), field, position)


_ROLES: Mapping[str, Callable[[Content], Message]] = {
    "user": UserMessage,
    "system": SystemMessage,
    "developer": DeveloperMessage,
}


def _texts(content: str | Sequence[Part]) -> Sequence[str]:
    return [content] if isinstance(content, str) else [part.text for part in content]


def _texts_of_answer(content: str | Sequence[InputPart], field: str) -> Sequence[str]:
    """Raises UnsupportedParameter for a file, which no answer of a model contains."""
    if isinstance(content, str):
        return [content]
    texts = []
    for i, part in enumerate(content):
        if isinstance(part, InputFileContent):
            path = f"{field}.content[{i}]"
            raise UnsupportedParameter(path, f"'{path}': an assistant's message can't have a file.")
        texts.append(part.text)
    return texts


def _content(content: str | Sequence[InputPart], field: str) -> Content:
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{field}[{i}]") for i, part in enumerate(content)]
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return parts or ""


def _part(part: InputPart, field: str) -> ContentPart:
    if not isinstance(part, InputFileContent):
        return TextPart(part.text)
    named = file_in(part, field)
    if "[" not in field.partition(".")[0]:  # an item of the history, which the request only names
        named.field = field.partition(".")[0]
    return named


def file_in(part: InputFileContent, field: str) -> NamedFile:
    """The file of a part. Raises InvalidRequest if it has not exactly one source."""
    sources = [name for name in ("file_id", "file_data", "file_url") if getattr(part, name) is not None]
    if len(sources) != 1:
        raise InvalidRequest(f"'{field}' must have exactly one of 'file_id', 'file_data' and 'file_url'.", param=field)
    source = PromptFile(part.file_id, part.file_data, part.filename)
    return NamedFile(source, field=f"{field}.{sources[0]}", url=part.file_url)
