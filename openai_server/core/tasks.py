"""What is wanted of a model besides generating, in no API's words and no backend's. PURE."""

from collections.abc import Mapping

from msgspec import Struct


class EmbeddingOptions(Struct, frozen=True, kw_only=True):
    """None is the backend's default."""

    dimensions: int | None = None
    """Elements of the vector."""
    normalize: bool | None = None
    """The vector has length 1."""
    pooling: str | None = None
    """How the tokens' vectors become one: `mean`, `cls` or `last`."""
    priority: int | None = None
    """0 to 2³¹ - 1; the smaller the sooner."""


class TokenizeOptions(Struct, frozen=True, kw_only=True):
    add_special: bool
    """With the tokens that the model wants at the beginning and the end."""
    parse_special: bool | None = None
    """Text that reads as a control token becomes one. None: the backend's default."""
    names: Mapping[str, str]
    """Field of these (and `text`, which is tokenized) → the client's field, to name in errors."""
