"""What happens in one choice of an answer, before any API's wire form. PURE."""

from dataclasses import dataclass

from openai_server.core.logprobs import Logprobs

# None of them is frozen: there is one for each token, and frozen dataclasses take three times as long to make.


@dataclass(slots=True)
class Content:
    text: str


@dataclass(slots=True)
class Reasoning:
    text: str


@dataclass(slots=True)
class CallBegun:
    """`index` counts the calls of one choice from 0. `id` is None where the model gave the call none of its own and
    nothing has made one yet."""

    index: int
    name: str
    id: str | None = None


@dataclass(slots=True)
class CallArguments:
    """The next piece of the arguments; all pieces of a call together are the text of one JSON value."""

    index: int
    text: str


@dataclass(slots=True)
class TokenLogprobs:
    """Log probabilities of the tokens that the events behind this one are made of."""

    tokens: Logprobs


@dataclass(slots=True)
class Finish:
    """The choice is complete, for this reason."""

    reason: str


Event = Content | Reasoning | CallBegun | CallArguments | TokenLogprobs | Finish
