"""The client's name for a field of the body in the chat's form, for errors of a model that takes chats. PURE."""

import re
from collections.abc import Iterator, Mapping

from openai_server.core.chat_form import LIMITS, REASONING_LIMITS
from openai_server.core.turn import Turn
from protos import contract

_TURN_FIELDS = {
    **dict.fromkeys(LIMITS, "token_limit"),
    **dict.fromkeys(REASONING_LIMITS, "reasoning_limit"),
    "messages": "messages",
    "n": "n_to_send",
    "tool_choice": "tool_use",
}
"""Field of the body → the field of the turn, where the names differ."""
_GUIDES = ("response_format", "structured_outputs")
_ITEM = re.compile(r"(messages|tools)(?:\[(?P<index>\d{1,6})\]|\.(?P<position>\d{1,6})(?!\d))")
"""`messages[0]`, as OpenAI writes it, or `messages.0`, as servers with pydantic do."""


class BodyFields(Mapping[str, str]):
    """Name of a tensor, or path of a field in the body → the client's field. It has every path, so that a model may
    name any."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        conversation = turn.name("messages")
        self._tensors = {
            contract.MESSAGES.name: conversation,
            contract.INPUT_ITEMS.name: conversation,
            contract.PROMPT.name: turn.name("prompt"),
        }

    def __getitem__(self, path: str) -> str:
        if not path or path == contract.BODY.name:
            raise KeyError(path)
        return self._tensors.get(path) or self._item(path) or self._field(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _item(self, path: str) -> str:
        """The client's path of a message or tool, or of a field in it; empty if it is none."""
        if (found := _ITEM.match(path)) is None:
            return ""
        turn, i = self._turn, int(found["index"] or found["position"])
        if found[1] == "messages":
            if turn.message_fields:
                return turn.message_fields[i] if i < len(turn.message_fields) else turn.name("messages")
            return path
        if i >= len(turn.tools):
            return turn.name("tools")
        is_definition = path[found.end() :].startswith((".function.parameters", ".custom.format"))
        if is_definition:
            return turn.tool_field(i)
        return turn.tool_fields[i] if turn.tool_fields else f"{turn.name('tools')}[{i}]"

    def _field(self, path: str) -> str:
        name = re.split(r"[.\[]", path, maxsplit=1)[0]
        client_name = self._turn.names.get(_TURN_FIELDS.get(name, name))
        if name in _GUIDES:
            client_name = self._turn.guide.field
        return path if client_name in (None, "", name) else str(client_name)
