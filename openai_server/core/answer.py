"""A whole answer: the choices that one prompt got, and what they cost. PURE."""

from dataclasses import dataclass, replace

from openai_server.core.logprobs import Logprobs
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
    """None: the backend doesn't count."""


def best(answer: Answer, n: int) -> Answer:
    """The `n` choices with the greatest log probability a token, best first. All that was generated is counted."""

    def likelihood(choice: Choice) -> float:
        known = [token.logprob for token in choice.logprobs if token.logprob is not None]
        return sum(known) / len(known) if known else 0.0

    chosen = sorted(answer.choices, key=likelihood, reverse=True)[:n]
    return Answer([replace(choice, index=i) for i, choice in enumerate(chosen)], answer.usage)
