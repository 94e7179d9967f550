"""Estimated token counts for rate limits: for prompts before the backend has counted them, and for answers if the
backend doesn't count tokens. PURE.
"""

from collections.abc import Sequence

from openai_server.core.answer import Answer
from openai_server.core.turn import Prompt
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.event_reader import text_length

CHARACTERS_PER_TOKEN = 4
"""A rough mean."""


def prompt_tokens(prompts: Sequence[Prompt], body_size: int) -> int:
    """Tokens of the prompts: the exact number for token ids, an estimate from the body's size in bytes for text."""
    if prompts and not isinstance(prompts[0], str):
        return sum(map(len, prompts))
    return body_size // CHARACTERS_PER_TOKEN


def output_tokens(answers: Sequence[Answer], format: AnswerFormat | None) -> int:
    """Estimated tokens of the answers' texts. `format`: how they are parsed; None: all text is content."""
    in_events = format is not None and format.new_parser is None
    length = text_length if in_events else len
    return sum(length(choice.text) for answer in answers for choice in answer.choices) // CHARACTERS_PER_TOKEN
