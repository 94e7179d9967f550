"""The values of `response_format`, as Structs, and their conversion to a guide. PURE."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from openai_server.api.schemas.guides import ANY_OBJECT
from openai_server.core.turn import Guide


class TextFormat(Struct, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    schema: dict[str, Any] | None = None  # not in OpenAI's API; llama-server accepts it here


class NamedSchema(Struct):
    name: Annotated[
        str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+(?!\n)$")
    ]  # Python's $ would allow a line break at the end
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


def guide_of_format(format: ResponseFormat | None) -> Guide | None:
    """None for text."""
    match format:
        case JsonSchemaFormat(json_schema=named):
            return Guide(
                field="response_format",
                json_schema=named.schema or ANY_OBJECT,
                name=named.name,
                description=named.description or "",
                strict=bool(named.strict),
            )
        case JsonObjectFormat(schema=schema):
            return Guide(field="response_format", json_schema=schema or ANY_OBJECT)
    return None
