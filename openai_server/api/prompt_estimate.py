"""Estimated token counts for rate limits: for prompts before the backend has counted them, and for answers if the
backend doesn't count tokens. PURE.
"""

from collections.abc import Sequence

from openai_server.core.answer import Answer
from openai_server.core.turn import Prompt

CHARACTERS_PER_TOKEN = 4
"""A rough mean."""


def prompt_tokens(prompts: Sequence[Prompt], body_size: int) -> int:
    """Tokens of the prompts: the exact number for token ids, an estimate from the body's size in bytes for text."""
    if prompts and not isinstance(prompts[0], str):
        return sum(map(len, prompts))
    return body_size // CHARACTERS_PER_TOKEN


def output_tokens(answers: Sequence[Answer]) -> int:
    """Estimated tokens of the answers' texts."""
    return sum(len(choice.text) for answer in answers for choice in answer.choices) // CHARACTERS_PER_TOKEN
