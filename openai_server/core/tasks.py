"""Options of tasks other than generation, independent of the client's API and of the backend. PURE."""

from collections.abc import Mapping

from msgspec import Struct


class EmbeddingOptions(Struct, frozen=True, kw_only=True):
    """Options of an embedding. None is the backend's default."""

    dimensions: int | None = None
    """Number of elements of the vector."""
    normalize: bool | None = None
    """Whether to scale the vector to length 1."""
    pooling: str | None = None
    """How the tokens' vectors are combined: `mean`, `cls` or `last`."""
    priority: int | None = None
    """0 to 2³¹ - 1; smaller values run earlier."""


class TokenizeOptions(Struct, frozen=True, kw_only=True):
    add_special: bool
    """Whether to add the tokens that the model expects at the beginning and end of a text."""
    parse_special: bool | None = None
    """Whether text of the form of a control token becomes that token. None: the backend's default."""
    names: Mapping[str, str]
    """Option (or `text`, the tokenized text) → the client's field, for error messages."""
