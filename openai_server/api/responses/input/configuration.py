"""The objects in a `/v1/responses` body that are not input items or tools, as Structs. PURE."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary = Literal["auto", "concise", "detailed"]


class PlainFormat(Struct, tag_field="type", tag="text"):
    pass


class ObjectFormat(Struct, tag_field="type", tag="json_object"):
    schema: dict[str, Any] | None = None  # not in OpenAI's API; as in a chat's format


class FlatSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+(?!\n)$")]
    schema: dict[str, Any]
    description: str | None = None
    """Has no effect; the response repeats it."""
    strict: bool | None = None


AnyFormat = PlainFormat | ObjectFormat | FlatSchemaFormat


class FormatConfig(Struct):
    format: AnyFormat | None = None


class TextConfig(FormatConfig):
    verbosity: Literal["low", "medium", "high"] | None = None
    """Has no effect; the response repeats it."""


class EffortConfig(Struct):
    effort: Effort | None = None


class ReasoningConfig(EffortConfig):
    summary: Summary | None = None
    generate_summary: Summary | None = None  # the older name of `summary`


class StreamConfig(Struct):
    """Has only fields without effect."""
