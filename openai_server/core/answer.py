"""A whole answer to one prompt: its choices, and its token counts. PURE."""

from dataclasses import dataclass, replace

from openai_server.core.logprobs import Logprobs
from openai_server.core.timings import Timings
from openai_server.core.usage import Usage


@dataclass(slots=True)
class Choice:
    index: int
    text: str
    finish_reason: str | None
    """None: the backend doesn't report it."""
    logprobs: Logprobs = ()


@dataclass(frozen=True, slots=True)
class Answer:
    choices: list[Choice]
    usage: Usage | None
    """None: the backend doesn't count tokens."""
    timings: Timings | None = None
    """None: not requested, or not reported."""


def best(answer: Answer, n: int) -> Answer:
    """The `n` choices with the greatest mean log probability per token, best first. The usage includes the others."""

    def likelihood(choice: Choice) -> float:
        known = [token.logprob for token in choice.logprobs if token.logprob is not None]
        return sum(known) / len(known) if known else 0.0

    chosen = sorted(answer.choices, key=likelihood, reverse=True)[:n]
    return replace(answer, choices=[replace(choice, index=i) for i, choice in enumerate(chosen)])
