"""What the answers of completions and chats have in common. PURE.

The types in the `openai` package are the reference of every shape; `reasoning_content` is DeepSeek's addition to them,
which other servers have taken over.
"""

from dataclasses import dataclass
from typing import NamedTuple

from msgspec import Struct

from openai_server.core.usage import Usage
from openai_server.parsing.choice_reader import AnswerFormat


@dataclass(frozen=True, slots=True)
class AnswerIdentity:
    """What an answer has beside its choices; `created` is in Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What a client wants in its answer, and how the model's text is read (None: all of it is content)."""

    logprobs: bool = False
    include_usage: bool = False
    """A stream ends with the token counts."""
    format: AnswerFormat | None = None


class WholeAnswer(NamedTuple):
    """The Struct that is sent, and what metrics and logs need to know of it."""

    content: Struct
    n_choices: int
    finish_reasons: list[str]
    """Those that the backend reports."""
    usage: Usage | None
