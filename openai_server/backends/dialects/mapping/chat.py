"""The places of a chat that a backend takes as messages instead of a rendered prompt. PURE."""

from dataclasses import dataclass
from typing import Any

import orjson
from msgspec import to_builtins
from msgspec.structs import asdict

from openai_server.backends.dialects.description import TensorDescription
from openai_server.backends.dialects.mapping.draft import Draft
from openai_server.backends.dialects.mapping.places import Tensors
from openai_server.backends.dialects.mapping.schema import Messages
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.messages import DeveloperMessage, Message, SystemMessage, UserMessage, text_of
from openai_server.core.turn import Turn


@dataclass(frozen=True, slots=True)
class MessagePlaces:
    messages: TensorDescription
    is_list: bool
    """Whether each message is an element of its own, instead of all together as one JSON array."""
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
        return cls(messages, settings.as_ == "list", system, last_user)

    @property
    def tensors(self) -> list[TensorDescription]:
        return [tensor for tensor in (self.messages, self.system, self.last_user) if tensor is not None]

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
        plain = [_plain(message) for message in messages]
        draft.add(self.messages, [orjson.dumps(item) for item in plain] if self.is_list else [orjson.dumps(plain)])

    def describe(self) -> str:
        """For a person."""
        form = "a JSON object for each message" if self.is_list else "a JSON array"
        return f"tensor {self.messages.name} ({form})"


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
