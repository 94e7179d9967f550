"""What happens in one choice of an answer, before any API's wire form. PURE."""

from dataclasses import dataclass


@dataclass(slots=True)  # none of them frozen: there is one for each token, see decode.Choice
class Content:
    text: str


@dataclass(slots=True)
class Reasoning:
    text: str


@dataclass(slots=True)
class CallBegun:
    """`index` counts the calls of one choice from 0. `id` is None unless the model gave the call one of its own."""

    index: int
    name: str
    id: str | None = None


@dataclass(slots=True)
class CallArguments:
    """The next piece of the arguments; all pieces of a call together are the text of one JSON value."""

    index: int
    text: str


Event = Content | Reasoning | CallBegun | CallArguments
