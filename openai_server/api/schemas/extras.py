"""Fields of OpenAI's APIs that mean nothing to a model, but may to a backend that takes chats. PURE."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

CLIENT_FIELDS = (
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)
"""Fields that chats and responses have with the same names."""


def extras_reader(names: Sequence[str]) -> Callable[[object], Mapping[str, Any]]:
    """Returns a function that reads the attributes of a request which are set. Few requests have any."""
    read, nothing = attrgetter(*names), (None,) * len(names)

    def extras_of(request: object) -> Mapping[str, Any]:
        values = read(request)
        if values == nothing:
            return {}
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    return extras_of
