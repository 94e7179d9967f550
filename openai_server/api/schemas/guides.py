"""The fields of other servers that constrain the text: their Structs, and their conversion to a guide. PURE.

`json_schema`, `regex` and `grammar` are llama-server's and SGLang's, `ebnf` is SGLang's. vLLM has `structured_outputs`,
and had `guided_*`.
"""

import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Annotated, Any

import orjson
from msgspec import Meta, Struct

from anyserve_common.text import ends_in_escape
from openai_server.api.schemas.bounds import MAX_GUIDE_CHOICES, check_nested_text
from openai_server.core.errors import InvalidRequest
from openai_server.core.turn import NO_GUIDE, Guide

ANY_OBJECT = {"type": "object"}
"""JSON Schema of an arbitrary object."""
MAX_WHITESPACE = 256
"""Characters of a pattern for whitespace."""

Text = Annotated[str, Meta(min_length=1)]
JsonSchema = dict[str, Any] | str
"""A JSON Schema, or its JSON text, which `decode_schemas` replaces."""
Choices = Annotated[list[str], Meta(min_length=1, max_length=MAX_GUIDE_CHOICES)]
Whitespace = Annotated[str, Meta(max_length=MAX_WHITESPACE)]

_RULE_OF_GBNF = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_LARK_HEADER = "%llguidance"
"""Begins a Lark grammar in llama-server's `grammar`."""


class StructuredOutputs(Struct, kw_only=True):
    """vLLM's object: one constraint, and options for JSON."""

    json: JsonSchema | None = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: Whitespace | None = None


class GuideFields(Struct, kw_only=True):
    """The fields of a request. At most one constraint may be set, in any of them."""

    json_schema: JsonSchema | None = None
    regex: Text | None = None
    grammar: str | None = None  # GBNF
    ebnf: Text | None = None  # GBNF, or Lark as in vLLM
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | None = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
    guided_whitespace_pattern: Whitespace | None = None

    def guides(self) -> Iterator[Guide]:
        """The constraints that are set, without the options for JSON."""
        for field in ("json_schema", "guided_json"):
            if (schema := getattr(self, field)) is not None:
                assert isinstance(schema, dict)
                yield Guide(field=field, json_schema=schema)
        for field in ("regex", "guided_regex"):
            if (regex := getattr(self, field)) is not None:
                yield _of_regex(field, regex)
        if self.grammar:  # empty is llama-server's default
            if self.grammar.startswith(_LARK_HEADER):
                yield Guide(field="grammar", lark=self.grammar)
            else:
                yield Guide(field="grammar", grammar=self.grammar)
        for field in ("ebnf", "guided_grammar"):
            if (grammar := getattr(self, field)) is not None:
                yield _of_grammar(field, grammar)
        if self.guided_choice is not None:
            yield Guide(field="guided_choice", choice=self.guided_choice)
        if (outputs := self.structured_outputs) is not None:
            yield _of_structured_outputs(outputs)

    def with_options(self, guide: Guide) -> Guide:
        """The guide with the options for JSON. Raises InvalidRequest for options that don't apply to it."""
        options: list[tuple[str, str]] = []  # field, pattern
        if (pattern := self.guided_whitespace_pattern) is not None:
            options.append(("guided_whitespace_pattern", pattern))
        if (outputs := self.structured_outputs) is not None:
            if outputs.whitespace_pattern is not None:
                options.append((f"{_OUTPUTS}.whitespace_pattern", outputs.whitespace_pattern))
            if outputs.disable_any_whitespace:
                options.append((f"{_OUTPUTS}.disable_any_whitespace", ""))
            if outputs.disable_additional_properties and guide.json_schema is None:
                raise _for_json_only(f"{_OUTPUTS}.disable_additional_properties")
        if not options:
            return guide
        if len(options) > 1:
            raise not_together(options[1][0], options[0][0])
        field, pattern = options[0]
        if guide.json_schema is None:
            raise _for_json_only(field)
        _check_pattern(field, pattern)
        return Guide(
            field=guide.field,
            json_schema=guide.json_schema,
            strict=guide.strict,
            whitespace=pattern,
            whitespace_field=field,
        )


_OUTPUTS = "structured_outputs"


def guide_of(fields: GuideFields, *others: Guide) -> Guide:
    """The only constraint of a request, in these fields or among `others`. Raises InvalidRequest if it has several."""
    if not others and _read_fields(fields) == _NONE:  # as in most requests
        return NO_GUIDE
    guides = [*others, *fields.guides()]
    if len(guides) > 1:
        raise not_together(guides[1].field, guides[0].field)
    return fields.with_options(guides[0] if guides else NO_GUIDE)


_read_fields = attrgetter(*GuideFields.__struct_fields__)
_NONE = (None,) * len(GuideFields.__struct_fields__)


def not_together(field: str, other: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' can't be combined with '{other}'.", param=field)


def decode_schemas(payload: dict[str, Any]) -> None:
    """Replaces the JSON texts of schemas by the schemas. Raises InvalidRequest. Accepts values of any type."""
    for field in ("json_schema", "guided_json"):
        if isinstance(text := payload.get(field), str):
            payload[field] = _decoded(field, text)
    if isinstance(outputs := payload.get(_OUTPUTS), dict) and isinstance(text := outputs.get("json"), str):
        payload[_OUTPUTS] = {**outputs, "json": _decoded(f"{_OUTPUTS}.json", text)}


def settle_schemas(fields: GuideFields) -> None:
    """Applies vLLM's option for a schema to the schema."""
    outputs = fields.structured_outputs
    if outputs is not None and outputs.disable_additional_properties and outputs.json is not None:
        outputs.json = without_additional_properties(outputs.json)


def _decoded(field: str, text: str) -> dict[str, Any]:
    check_nested_text(field, text)
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"'{field}' is not valid JSON: {error}", param=field) from None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"'{field}' must be a JSON Schema: an object, or its JSON text.", param=field)
    return schema


def _of_structured_outputs(outputs: StructuredOutputs) -> Guide:
    """Raises InvalidRequest unless it has one constraint."""
    guides: list[Guide] = []
    if (schema := outputs.json) is not None:
        assert isinstance(schema, dict)
        guides.append(Guide(field=f"{_OUTPUTS}.json", json_schema=schema))
    if outputs.regex is not None:
        guides.append(_of_regex(f"{_OUTPUTS}.regex", outputs.regex))
    if outputs.choice is not None:
        guides.append(Guide(field=f"{_OUTPUTS}.choice", choice=outputs.choice))
    if outputs.grammar is not None:
        guides.append(_of_grammar(f"{_OUTPUTS}.grammar", outputs.grammar))
    if outputs.json_object:
        guides.append(Guide(field=f"{_OUTPUTS}.json_object", json_schema=ANY_OBJECT))
    if not guides:
        raise InvalidRequest(
            f"'{_OUTPUTS}' must set one of 'json', 'regex', 'choice', 'grammar' and 'json_object'.", param=_OUTPUTS
        )
    if len(guides) > 1:
        raise not_together(guides[1].field, guides[0].field)
    return guides[0]


def _of_regex(field: str, regex: str) -> Guide:
    _check_end(field, regex)
    return Guide(field=field, regex=regex)


def _of_grammar(field: str, grammar: str) -> Guide:
    """A grammar in GBNF, which defines rules by `::=`, or else in Lark."""
    if _RULE_OF_GBNF.search(grammar):
        return Guide(field=field, grammar=grammar)
    return Guide(field=field, lark=grammar)


def _check_end(field: str, regex: str) -> None:
    if ends_in_escape(regex):
        raise InvalidRequest(f"'{field}' ends with a backslash that escapes nothing.", param=field)


def _check_pattern(field: str, pattern: str) -> None:
    _check_end(field, pattern)
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        raise InvalidRequest(f"'{field}' is not a regular expression.", param=field) from None


def _for_json_only(field: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' applies to JSON only, but the request has no JSON Schema.", param=field)


_NAMES = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""Keywords with a schema per name."""
_DATA = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values aren't schemas."""


def without_additional_properties(schema: Any) -> Any:
    """A copy of the schema in which no object may have members without a name, unless it sets `additionalProperties`
    itself."""
    if isinstance(schema, list):
        return [without_additional_properties(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMES and isinstance(value, dict):
            copy[key] = {name: without_additional_properties(item) for name, item in value.items()}
        else:
            copy[key] = value if key in _DATA else without_additional_properties(value)
    if "properties" in copy or "patternProperties" in copy:
        copy.setdefault("additionalProperties", False)
    return copy
