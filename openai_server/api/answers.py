"""Types that the answers of completions and chats share. PURE.

All forms follow the types of the `openai` package; `reasoning_content` is DeepSeek's addition, which other servers use
too.
"""

from dataclasses import dataclass
from typing import NamedTuple

from msgspec import Struct

from openai_server.api.schemas import GenerateRequest
from openai_server.core.usage import Usage
from openai_server.parsing.choice_reader import AnswerFormat


@dataclass(frozen=True, slots=True)
class AnswerIdentity:
    """The fields of an answer besides its choices. `created` is in Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How to build an answer from the model's output."""

    logprobs: bool = False
    """Whether the answer has log probabilities."""
    include_usage: bool = False
    """Whether a stream ends with the token counts."""
    format: AnswerFormat | None = None
    """How the model's text is parsed; None: all of it is content."""
    service_tier: str | None = None
    """The tier to report; None: the client requests none."""

    @classmethod
    def of(cls, request: GenerateRequest, format: AnswerFormat | None) -> "AnswerOptions":
        return cls(request.turn.top_logprobs is not None, request.include_usage, format, request.service_tier)


class WholeAnswer(NamedTuple):
    """An answer that is not streamed, with its values for metrics and logs."""

    content: Struct
    """The body of the response."""
    n_choices: int
    finish_reasons: list[str]
    """Finish reasons of the choices for which the backend reports one."""
    usage: Usage | None
    """None: the backend doesn't count tokens."""
