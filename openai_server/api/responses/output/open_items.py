"""Items of a response's output that the model is writing. PURE.

An item is opened, gets text, and is closed. Each step returns the events that a stream sends for it.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from msgspec import UNSET, UnsetType

from openai_server.api.chat.answer import ChatToken
from openai_server.api.chat.logprobs import chat_logprobs
from openai_server.api.responses.answer import (
    ItemStatus,
    ResponseCustomToolCall,
    ResponseFunctionCall,
    ResponseItem,
    ResponseMessage,
    ResponseReasoning,
    ResponseReasoningText,
    ResponseRefusal,
    ResponseText,
)
from openai_server.api.responses.output.stream_events import (
    ContentPartAdded,
    ContentPartDone,
    CustomToolCallInputDelta,
    CustomToolCallInputDone,
    Delta,
    FunctionCallArgumentsDelta,
    FunctionCallArgumentsDone,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    RefusalDelta,
    RefusalDone,
    StreamEvent,
)
from openai_server.api.responses.settings import CalledTool
from openai_server.core.events import CallArguments, Event, Reasoning, Refusal
from openai_server.core.logprobs import Logprobs
from openai_server.core.sealing import Seal

Phase = Literal["commentary", "final_answer"] | UnsetType


class OpenItem(ABC):
    """`index` is the item's place in the output."""

    id_prefix: ClassVar[str]
    event_type: type[Event]
    """The events whose text belongs to the part that is open."""

    def __init__(self, key: str, index: int) -> None:
        self.id = f"{self.id_prefix}_{key}{index:02x}"
        self.index = index
        self.pieces: list[str] = []
        """The text of the open part, in pieces."""

    def open_part(self, kind: type[Event]) -> list[StreamEvent]:
        """Opens the part for the text of these events, unless it is open."""
        return []

    @abstractmethod
    def delta(self, text: str, tokens: Logprobs) -> Delta:
        """Adds text to the open part."""

    @abstractmethod
    def close_part(self) -> list[StreamEvent]:
        """Closes the open part. An item without parts has its text as the only one."""

    @abstractmethod
    def item(self, status: ItemStatus, phase: Phase = UNSET) -> ResponseItem:
        """The item with its closed parts. `phase` is for messages."""

    def _take_text(self) -> str:
        text = "".join(self.pieces)
        self.pieces = []
        return text


class OpenMessage(OpenItem):
    id_prefix = "msg"

    def __init__(self, key: str, index: int) -> None:
        super().__init__(key, index)
        self._parts: list[ResponseText | ResponseRefusal] = []
        self._is_open = False
        self._tokens: list[ChatToken] = []

    def open_part(self, kind: type[Event]) -> list[StreamEvent]:
        if self._is_open and kind is self.event_type:
            return []
        events = self.close_part() if self._is_open else []
        self._is_open, self.event_type = True, kind
        part = ResponseRefusal("") if kind is Refusal else ResponseText("", [], [])
        return [*events, ContentPartAdded(**self._place, part=part)]

    def delta(self, text: str, tokens: Logprobs) -> Delta:
        self.pieces.append(text)
        if self.event_type is Refusal:
            return RefusalDelta(**self._place, delta=text)
        written = chat_logprobs(tokens).content if tokens else []
        self._tokens += written
        return OutputTextDelta(**self._place, logprobs=written, delta=text)

    def close_part(self) -> list[StreamEvent]:
        place, text = self._place, self._take_text()
        part: ResponseText | ResponseRefusal
        done: StreamEvent
        if self.event_type is Refusal:
            part, done = ResponseRefusal(text), RefusalDone(**place, refusal=text)
        else:
            part = ResponseText(text, [], self._tokens)
            done = OutputTextDone(**place, logprobs=self._tokens, text=text)
            self._tokens = []
        self._parts.append(part)
        self._is_open = False
        return [done, ContentPartDone(**place, part=part)]

    def item(self, status: ItemStatus, phase: Phase = UNSET) -> ResponseMessage:
        return ResponseMessage(self.id, status, "assistant", list(self._parts), phase)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": len(self._parts)}


class OpenReasoning(OpenItem):
    """`seal`: None leaves `encrypted_content` out."""

    id_prefix = "rs"
    event_type = Reasoning

    def __init__(self, key: str, index: int, seal: Seal | None) -> None:
        super().__init__(key, index)
        self._seal = seal
        self._is_open = False
        self._parts: list[ResponseReasoningText] = []

    def open_part(self, kind: type[Event]) -> list[StreamEvent]:
        if self._is_open:
            return []
        self._is_open = True
        return [ContentPartAdded(**self._place, part=ResponseReasoningText(""))]

    def delta(self, text: str, tokens: Logprobs) -> Delta:
        self.pieces.append(text)
        return ReasoningTextDelta(**self._place, delta=text)

    def close_part(self) -> list[StreamEvent]:
        part = ResponseReasoningText(self._take_text())
        self._parts.append(part)
        return [ReasoningTextDone(**self._place, text=part.text), ContentPartDone(**self._place, part=part)]

    def item(self, status: ItemStatus, phase: Phase = UNSET) -> ResponseReasoning:
        sealed = self._seal(self._parts[0].text) if self._seal and self._parts else UNSET
        return ResponseReasoning(self.id, status, [], list(self._parts), sealed)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}


class OpenCall(OpenItem):
    """`call_id` is the id that the output of the tool refers to."""

    event_type = CallArguments

    def __init__(self, key: str, index: int, call_id: str, tool: CalledTool) -> None:
        super().__init__(key, index)
        self._call_id = call_id
        self._tool = tool
        self._text = ""

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}

    @property
    def _namespace(self) -> str | UnsetType:
        return UNSET if self._tool.namespace is None else self._tool.namespace


class OpenFunctionCall(OpenCall):
    id_prefix = "fc"

    def delta(self, text: str, tokens: Logprobs) -> Delta:
        self.pieces.append(text)
        return FunctionCallArgumentsDelta(**self._place, delta=text)

    def close_part(self) -> list[StreamEvent]:
        self._text = self._take_text()
        return [FunctionCallArgumentsDone(**self._place, arguments=self._text)]

    def item(self, status: ItemStatus, phase: Phase = UNSET) -> ResponseFunctionCall:
        return ResponseFunctionCall(self.id, status, self._call_id, self._tool.name, self._text, self._namespace)


class OpenCustomCall(OpenCall):
    id_prefix = "ctc"

    def delta(self, text: str, tokens: Logprobs) -> Delta:
        self.pieces.append(text)
        return CustomToolCallInputDelta(**self._place, delta=text)

    def close_part(self) -> list[StreamEvent]:
        self._text = self._take_text()
        return [CustomToolCallInputDone(**self._place, input=self._text)]

    def item(self, status: ItemStatus, phase: Phase = UNSET) -> ResponseCustomToolCall:
        return ResponseCustomToolCall(self.id, status, self._call_id, self._tool.name, self._text, self._namespace)
