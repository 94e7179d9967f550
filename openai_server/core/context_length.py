"""The message for a prompt that does not fit into the model's context. PURE.

Clients match the wording of OpenAI's message, which vLLM uses too: they shorten the conversation when they find "This
model's maximum context length is", and some parse the numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from protos import contract

MAX_DIGITS = 10
"""Digits of a token count. Python parses no integer of more than 4300 digits."""
_TEXTS = {
    "messages": "your messages",
    "query": "your query and one of your documents",
    "documents": "your query and one of your documents",
}
"""Description of each field; any other field is described by its name."""
_USES = {
    "messages": "{prompt} in the messages, {output} in the completion",
    "prompt": "{prompt} in your prompt; {output} for the completion",
}
"""Breakdown of the requested tokens, by field, for endpoints that generate."""


@dataclass(frozen=True, slots=True)
class Room:
    """Context length, and the tokens that a request needs of it."""

    context_length: int | None
    """Tokens; None if unknown."""
    output_tokens: int | None = None
    """Tokens to generate; None if unknown or none."""
    prompt_tokens: str = ""
    """Tokens of the prompt: a number, or `>` and a number; empty if the backend doesn't report it."""

    def reported(self, details: Mapping[str, str]) -> "Room":
        """A copy with the numbers from the details of a backend's error."""
        n_ctx = details.get(contract.ERROR_CONTEXT_LENGTH, "")
        prompt = details.get(contract.ERROR_PROMPT_TOKENS, "")
        return Room(
            int(n_ctx) if is_number(n_ctx) else self.context_length,
            self.output_tokens,
            prompt if is_number(prompt.removeprefix(">")) else "",
        )


def is_number(text: str) -> bool:
    """Whether the text is a token count."""
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS


def message(field: str, room: Room, backend_message: str) -> str:
    """The error message. `field` is the request field with the prompt; empty if unknown."""
    prompt_tokens = room.prompt_tokens
    if "maximum context length is" in backend_message and not prompt_tokens:
        return backend_message
    text = _TEXTS.get(field, f"your {field or 'prompt'}")
    if room.context_length is None:
        return f"This model's maximum context length is exceeded by {text}: {backend_message}"
    reduce = f"Please reduce the length of the {field or 'prompt'}."
    limit = f"This model's maximum context length is {room.context_length} tokens. However, "
    if is_number(prompt_tokens) and field in _USES:
        prompt = int(prompt_tokens)
        if room.output_tokens is not None or prompt <= room.context_length:
            output = max(1, room.output_tokens or 0)
            use = _USES[field].format(prompt=prompt, output=output)
            return f"{limit}you requested {prompt + output} tokens ({use}). {reduce}"
    count = f"{prompt_tokens} tokens" if prompt_tokens else "more tokens"
    if prompt_tokens.startswith(">"):  # clients look for the number at this place
        count = f"{prompt_tokens[1:]} tokens or more"
    return f"{limit}{text} resulted in {count}. {reduce}"
