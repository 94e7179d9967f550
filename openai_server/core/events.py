"""The events in one choice of an answer, before any API's wire form. PURE."""

from dataclasses import dataclass

from openai_server.core.logprobs import Logprobs

# The classes are not frozen: each token creates an event, and frozen dataclasses take three times as long to create.


@dataclass(slots=True)
class Content:
    text: str


@dataclass(slots=True)
class Reasoning:
    text: str


@dataclass(slots=True)
class Refusal:
    """Text in which the model declines to answer, from a backend that marks such text."""

    text: str


@dataclass(slots=True)
class CallBegun:
    """The beginning of a tool call. `index` counts the calls of one choice from 0. `id` is None if the model didn't
    generate an id and none has been created yet."""

    index: int
    name: str
    id: str | None = None
    custom: bool = False
    """Whether the tool is a custom tool."""


@dataclass(slots=True)
class CallArguments:
    """The next piece of a call's arguments. All pieces of a call together are the text of one JSON value, or, for a
    custom tool, its input."""

    index: int
    text: str
    custom: bool = False


@dataclass(slots=True)
class TokenLogprobs:
    """Log probabilities of the tokens that the next events consist of."""

    tokens: Logprobs


@dataclass(slots=True)
class Finish:
    """The choice is complete, for this reason."""

    reason: str
    stop: str | None = None
    """The stop string that ended the choice. None: something else ended it, or the turn doesn't report it."""


Event = Content | Reasoning | Refusal | CallBegun | CallArguments | TokenLogprobs | Finish
