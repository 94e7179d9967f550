"""Values that the examples of several endpoints share. PURE.

Each example request can be sent as it is. The example answer of an endpoint is a small model's answer to the first
request. The requests' model is `llamacpp`, on every server an alias of the first served model.
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
