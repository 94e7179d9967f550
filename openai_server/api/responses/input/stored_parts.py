"""Content parts of items in the form in which they are stored. PURE."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from openai_server.api.chat.answer import ChatToken

Json: TypeAlias = dict[str, Any]


class CacheBreakpoint(Struct, forbid_unknown_fields=True):
    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None = None


class FileCitation(Struct, forbid_unknown_fields=True, tag_field="type", tag="file_citation"):
    file_id: str
    filename: str
    index: int


class UrlCitation(Struct, forbid_unknown_fields=True, tag_field="type", tag="url_citation"):
    end_index: int
    start_index: int
    title: str
    url: str


class ContainerFileCitation(Struct, forbid_unknown_fields=True, tag_field="type", tag="container_file_citation"):
    container_id: str
    end_index: int
    file_id: str
    filename: str
    start_index: int


class FilePath(Struct, forbid_unknown_fields=True, tag_field="type", tag="file_path"):
    file_id: str
    index: int


Annotation = FileCitation | UrlCitation | ContainerFileCitation | FilePath


def kept(value: Json, types: Mapping[str, Any]) -> Json:
    """The keys of `types` whose values have these types. Other values have no effect, so they are left out."""
    result = {}
    for name, type in types.items():
        if value.get(name) is None:
            continue
        try:
            result[name] = msgspec.to_builtins(msgspec.convert(value[name], type))
        except msgspec.ValidationError:
            continue
    return result


def parts_of(content: str | Sequence[Json]) -> Sequence[Json]:
    """The parts of a message; one for a text."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def text_of(part: Json) -> str:
    return str(part["refusal"] if part["type"] == "refusal" else part["text"])


def input_part(part: Json) -> Json:
    """The text or the file of a message or result."""
    if part["type"] == "input_file":
        names = ("file_id", "file_data", "file_url", "filename")
        return {
            "type": "input_file",
            **{name: part[name] for name in names if part.get(name) is not None},
            **_detail(part),
        }
    return input_text(part)


def _detail(part: Json) -> Json:
    return kept(part, {"detail": Literal["auto", "low", "high"]})


def input_text(part: Json) -> Json:
    stored: Json = {"type": "input_text", "text": text_of(part)}
    if mark := kept(part, {"prompt_cache_breakpoint": CacheBreakpoint}).get("prompt_cache_breakpoint"):
        stored["prompt_cache_breakpoint"] = {key: value for key, value in mark.items() if value is not None}
    return stored


def output_part(part: Json) -> Json:
    """The part of an answer."""
    if part["type"] == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    annotations = part.get("annotations")
    found = [kept({"annotation": value}, {"annotation": Annotation}) for value in _list(annotations)]
    logprobs = kept(part, {"logprobs": list[ChatToken]}).get("logprobs", [])
    return {
        "type": "output_text",
        "text": part["text"],
        "annotations": [value["annotation"] for value in found if value],
        "logprobs": logprobs,
    }


def with_tags(value: Any, converted: object) -> Any:
    """The value with the tag of each object in it, which may be absent where only one kind of object is allowed.
    `converted`: the value as Structs."""
    if value is converted:
        return value  # of any type, and possibly nested more deeply than Python can follow
    if isinstance(value, list) and isinstance(converted, list):
        return [with_tags(*pair) for pair in zip(value, converted, strict=True)]
    if not (isinstance(value, dict) and isinstance(converted, Struct)):
        return value
    fields = {name: with_tags(item, getattr(converted, name, None)) for name, item in value.items()}
    config = converted.__struct_config__
    if config.tag_field is None or config.tag_field in fields:
        return fields
    return {config.tag_field: config.tag, **fields}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
