"""Estimates of tokens, for rates: of prompts that the backend hasn't counted yet, of answers where it doesn't. PURE."""

from collections.abc import Sequence

from openai_server.core.answer import Answer
from openai_server.core.turn import Prompt

CHARACTERS_PER_TOKEN = 4
"""Roughly."""


def prompt_tokens(prompts: Sequence[Prompt], body_size: int) -> int:
    """Token ids count as what they are, text by the length of the body in bytes."""
    if prompts and not isinstance(prompts[0], str):
        return sum(map(len, prompts))
    return body_size // CHARACTERS_PER_TOKEN


def output_tokens(answers: Sequence[Answer]) -> int:
    """Tokens of the answers' texts."""
    return sum(len(choice.text) for answer in answers for choice in answer.choices) // CHARACTERS_PER_TOKEN
