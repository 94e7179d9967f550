"""The places of a chat that a backend takes as messages instead of a rendered prompt. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from msgspec import to_builtins
from msgspec.structs import asdict

from openai_server.backends.dialects.description import TensorDescription
from openai_server.backends.dialects.mapping.draft import Draft
from openai_server.backends.dialects.mapping.places import Tensors
from openai_server.backends.dialects.mapping.schema import Messages
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
    text_of,
)
from openai_server.core.turn import Turn


@dataclass(frozen=True, slots=True)
class MessagePlaces:
    messages: TensorDescription
    form: Literal["json", "list", "columns"]
    """As `as` of the mapping file."""
    role: TensorDescription | None
    kind: TensorDescription | None
    system: TensorDescription | None
    last_user: TensorDescription | None

    @classmethod
    def bind(cls, settings: str | Messages | None, inputs: Tensors) -> "MessagePlaces | None":
        """None: the model takes no messages."""
        if settings is None:
            return None
        if isinstance(settings, str):
            settings = Messages(tensor=settings)
        if (messages := inputs.text(settings.tensor, settings.type, settings.rank)) is None:
            return None
        system = inputs.text(settings.system) if settings.system else None
        last_user = inputs.text(settings.last_user) if settings.last_user else None
        role = inputs.text(settings.role) if settings.role else None
        if settings.role and role is None:
            return None
        kind = inputs.text(settings.kind) if settings.kind else None
        return cls(messages, settings.as_, role, kind, system, last_user)

    @property
    def tensors(self) -> list[TensorDescription]:
        tensors = (self.messages, self.role, self.kind, self.system, self.last_user)
        return [tensor for tensor in tensors if tensor is not None]

    def put(self, draft: Draft, turn: Turn) -> None:
        """Raises UnsupportedParameter for what only a chat template could express."""
        if turn.tool_use is not None:
            raise _unsupported(turn.name("tools"))
        for name, value in asdict(turn.template).items():
            if value is not None and not _is_hint(turn, name):
                raise _unsupported(turn.name(name))
        messages = list(turn.messages)
        if self.last_user is not None:
            if not isinstance(messages[-1], UserMessage):
                raise UnsupportedParameter(
                    turn.name("messages"), "This model's backend needs a message of the user at the end."
                )
            draft.add(self.last_user, [text_of(messages.pop()).encode()])
        if self.system is not None:
            texts = [text_of(message) for message in messages if _is_system(message)]
            messages = [message for message in messages if not _is_system(message)]
            draft.add(self.system, ["\n".join(texts).encode()])
        if self.form == "columns":
            self._put_columns(draft, turn, messages)
            return
        plain = [_plain(message) for message in messages]
        is_list = self.form == "list"
        draft.add(self.messages, [orjson.dumps(item) for item in plain] if is_list else [orjson.dumps(plain)])

    def _put_columns(self, draft: Draft, turn: Turn, messages: Sequence[Message]) -> None:
        """`messages`: those of the turn that have no tensor of their own."""
        for i, message in enumerate(turn.messages):
            if isinstance(message, ToolMessage | FunctionMessage) or _has_calls(message):
                field = turn.message_fields[i] if turn.message_fields else f"{turn.name('messages')}[{i}]"
                raise UnsupportedParameter(field, f"'{field}': this model's backend takes no tool calls and results.")
        roles = ["system" if _is_system(message) else str(message.__struct_config__.tag) for message in messages]
        draft.add(self.messages, [text_of(message).encode() for message in messages])
        if self.role is not None:
            draft.add(self.role, [role.encode() for role in roles])
        if self.kind is not None:
            draft.add(self.kind, [b"text"] * len(messages))

    def describe(self) -> str:
        """For a person."""
        return f"tensor {self.messages.name} ({_FORMS[self.form]})"


_FORMS = {
    "json": "a JSON array",
    "list": "a JSON object for each message",
    "columns": "the text of each message",
}


def _has_calls(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and bool(message.tool_calls or message.function_call)


def _is_hint(turn: Turn, option: str) -> bool:
    """Whether the option of the template has no effect where it can't be expressed."""
    if option == "enable_thinking":
        return turn.thinking_is_hint
    return option == "reasoning_effort" and turn.effort_is_hint and turn.template.reasoning_effort != "none"


def _is_system(message: Message) -> bool:
    return isinstance(message, SystemMessage | DeveloperMessage)


def _plain(message: Message) -> dict[str, Any]:
    """The message as in OpenAI's chat, with its content as one text, and without absent fields."""
    fields: dict[str, Any] = to_builtins(message)
    fields["content"] = text_of(message)
    return {name: value for name, value in fields.items() if value is not None}


def _unsupported(field: str) -> UnsupportedParameter:
    return UnsupportedParameter(field, f"This model's backend does not support '{field}'.")
