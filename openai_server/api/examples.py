"""What the examples of several endpoints share. PURE.

Requests run as they stand; answers are those of a small model to the first one of each endpoint. The model is
`llamacpp`, an alias of the first served model on every server.
"""

from typing import Any

MODEL = "llamacpp"
SERVED = "SmolLM2-135M-Instruct.Q4_1"
CREATED = 1795972014
"""Unix seconds."""


def chat(*contents: str, **fields: Any) -> dict[str, Any]:
    """A chat of one user message, or of a system message and a user message."""
    roles = ("system", "user")[-len(contents) :]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    return {"model": MODEL, "messages": messages, **fields}
