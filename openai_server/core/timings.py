"""The times of an answer and the progress of its prompt, as the backend measures them. PURE."""

from typing import NamedTuple

from openai_server.core.usage import Usage


class Timings(NamedTuple):
    """Times of the choices that an answer has together, up to now or its end."""

    usage: Usage
    n_begun: int
    """Choices with at least one token. The first token of each takes no step of its own."""
    prompt_ms: float
    """Milliseconds from the start of the prompt's first step to the first token."""
    completion_ms: float
    """Milliseconds from the first token to the last one."""


class Progress(NamedTuple):
    total: int
    """Tokens of the prompt."""
    cached: int | None
    """Tokens of the prompt from the cache; None if the backend doesn't report it."""
    processed: int
    """Tokens of the prompt that are ready, cached ones included."""
    ms: float
    """Milliseconds since the start of the prompt's first step."""
