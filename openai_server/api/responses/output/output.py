"""The output of a response: turns the events of an answer into items, and into the stream's events that add them. PURE.

Whole answers and streams are both built here, so that their items are the same, ids included. Rules:

- The items are in the order in which the model wrote them. One is closed before the next one opens.
- The deltas of a part together are its text.
- Only the last item can be incomplete: it is if the answer ended before the model had finished.
- A message is `commentary` if the response has a call or another item after it, else the `final_answer`. This is known
  when the message is complete, so neither the event that adds it nor an incomplete message has a phase.
"""

from collections.abc import Mapping

from msgspec import UNSET

from openai_server.api.responses.answer import ResponseItem
from openai_server.api.responses.output.open_items import (
    OpenCall,
    OpenCustomCall,
    OpenFunctionCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
    Phase,
)
from openai_server.api.responses.output.stream_events import OutputItemAdded, OutputItemDone, StreamEvent
from openai_server.api.responses.settings import CalledTool
from openai_server.core.events import CallArguments, CallBegun, Content, Event, Reasoning, Refusal, TokenLogprobs
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.sealing import Seal

NO_ARGUMENTS = "{}"


class Output:
    """The items of one response. Their ids contain `key`. `tools` has the request's tools by the name that the model
    calls. `seal`: None leaves `encrypted_content` out."""

    def __init__(self, key: str, tools: Mapping[str, CalledTool], seal: Seal | None = None) -> None:
        self.items: list[ResponseItem] = []
        """The closed items."""
        self.current: OpenItem | None = None
        """The item that the model is writing."""
        self.pending: list[TokenLogprob] = []
        """Log probabilities to send with the next delta."""
        self._key = key
        self._tools = tools
        self._seal = seal
        self._call_ids: set[str] = set()

    def take(self, event: Event) -> list[StreamEvent]:
        """The stream's events for an event of the answer. If that has text, the last one is the delta."""
        match event:
            case Content(text=text) | Refusal(text=text):
                return self._write(OpenMessage, type(event), text)
            case Reasoning(text=text):
                return self._write(OpenReasoning, Reasoning, text)
            case CallBegun(name=name, id=id):
                assert id is not None  # set by ChoiceReader
                return [*self._leave(), self._enter(self._new_call(name, id))]
            case CallArguments(text=text):
                # They belong to the last call. If it is closed, they are the `{}` that it was closed with.
                if text and isinstance(self.current, OpenCall):
                    return [self._add(self.current, text)]
            case TokenLogprobs(tokens=tokens):
                self.pending += tokens
        return []

    def end(self, *, is_complete: bool, may_be_empty: bool) -> list[StreamEvent]:
        """The events after the answer's last one. `is_complete`: whether the model finished. An answer without items
        gets an empty message, unless it `may_be_empty`."""
        events: list[StreamEvent] = []
        if self.current is None and not (self.items or may_be_empty):
            message = OpenMessage(self._key, 0)
            events += [self._enter(message), *message.open_part(Content)]
        if (item := self.current) is None:
            return events
        if self.pending and item.event_type is Content:
            events.append(self._add(item, ""))  # for tokens without text, such as the end-of-text token
        phase: Phase = UNSET
        if is_complete:
            phase = "commentary" if self._call_ids else "final_answer"
        return events + self._close(item, phase, is_complete=is_complete)

    # ---- Steps

    def _write(self, kind: type[OpenMessage | OpenReasoning], event_type: type[Event], text: str) -> list[StreamEvent]:
        if not text:
            return []
        events: list[StreamEvent] = []
        item = self.current
        if not isinstance(item, kind):
            events = self._leave()
            item = self._new(kind)
            events.append(self._enter(item))
        events += item.open_part(event_type)
        events.append(self._add(item, text))
        return events

    def _new(self, kind: type[OpenMessage | OpenReasoning]) -> OpenItem:
        if kind is OpenReasoning:
            return OpenReasoning(self._key, len(self.items), self._seal)
        return OpenMessage(self._key, len(self.items))

    def _new_call(self, name: str, id: str) -> OpenItem:
        index = len(self.items)
        # A model may write an id twice. Clients distinguish calls by it.
        call_id = f"{id}_{index}" if id in self._call_ids else id
        self._call_ids.add(call_id)
        tool = self._tools.get(name) or CalledTool("function", name)
        kind = OpenCustomCall if tool.kind == "custom" else OpenFunctionCall
        return kind(self._key, index, call_id, tool)

    def _enter(self, item: OpenItem) -> StreamEvent:
        self.current = item
        return OutputItemAdded(output_index=item.index, item=item.item("in_progress"))

    def _leave(self) -> list[StreamEvent]:
        """Closes the open item, if there is one, because another one follows."""
        return [] if self.current is None else self._close(self.current, "commentary", is_complete=True)

    def _add(self, item: OpenItem, text: str) -> StreamEvent:
        tokens, self.pending = self.pending, []
        return item.delta(text, tokens)

    def _close(self, item: OpenItem, phase: Phase, *, is_complete: bool) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        if is_complete and isinstance(item, OpenFunctionCall) and not item.pieces:
            events.append(self._add(item, NO_ARGUMENTS))
        events += item.close_part()
        closed = item.item("completed" if is_complete else "incomplete", phase)
        self.items.append(closed)
        self.current = None
        return [*events, OutputItemDone(output_index=item.index, item=closed)]
