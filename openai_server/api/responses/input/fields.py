"""How `/v1/responses` handles each key of each JSON object.

PURE. The law of schemas/fields.py holds, with a list of this API's own: agents send keys that mean nothing to this
server, and each of them is in a table by name. tests/openai_server/api/responses/input/test_fields.py walks the types
of the `openai` package and fails for a key that is in no table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from msgspec import Struct

from openai_server.api.responses.input import items, tools
from openai_server.api.responses.input.body import ConversationReference, ResponsesBody
from openai_server.api.responses.input.configuration import (
    EffortConfig,
    FlatSchemaFormat,
    FormatConfig,
    ObjectFormat,
    PlainFormat,
    ReasoningConfig,
    StreamConfig,
    TextConfig,
)
from openai_server.api.schemas import CHAT_FIELDS, STRUCTURED_OUTPUTS_FIELDS, dialects
from openai_server.api.schemas.bounds import Place, path_of
from openai_server.api.schemas.tables import Entries, Family, Fields, ListOf, Table, Variants, mapped
from openai_server.core.errors import UnsupportedParameter


@dataclass(frozen=True, slots=True)
class Unsupported:
    """An object with a `type` that is refused. `reason` ends the message."""

    reason: str

    def clean(self, value: Any, place: Place = None) -> None:
        param = path_of(place)
        raise UnsupportedParameter(param, f"'{param}': {value['type']} is not supported, since {self.reason}.")


# ---- Content parts

_parts = Family()
_PART_NO_EFFECT = frozenset(
    {
        "annotations",  # the places where a text quotes search results
        "id",
        "logprobs",
        "parsed",  # the openai package's, for the parsed text
        "prompt_cache_breakpoint",  # prefixes are always cached
    }
)
_PART_NEUTRAL: dialects.Values = {
    **dialects.CACHE_CONTROL,
    # Null from clients that use one type for all kinds of parts.
    **dict.fromkeys(("detail", "file_data", "file_id", "file_url", "filename", "image_url", "input_audio"), ()),
}
_FILE_KEYS = mapped(items.InputFileContent)
_FILE_NEUTRAL = {name: values for name, values in _PART_NEUTRAL.items() if name not in _FILE_KEYS | {"detail"}}
PART_FIELDS = {
    **{
        str(struct.__struct_config__.tag): _parts.fields(mapped(struct), _PART_NO_EFFECT, _PART_NEUTRAL)
        for struct in get_args(items.Part)
    },
    # `detail` is the resolution at which other servers show the pages to a model.
    "input_file": _parts.fields(_FILE_KEYS, _PART_NO_EFFECT | {"detail"}, _FILE_NEUTRAL),
}
_NO_MEDIA = Unsupported("this server reads only text")
MEDIA_PARTS = ("input_image", "input_audio", "computer_screenshot", "image_url", "file", "output_audio")
_REFUSED_PARTS = dict.fromkeys(MEDIA_PARTS, _NO_MEDIA)
PARTS = ListOf(Variants("type", {**PART_FIELDS, **_REFUSED_PARTS}))
_TEXTS = ListOf(Variants("type", {**PART_FIELDS, **_REFUSED_PARTS, "input_file": _NO_MEDIA}))

# ---- Tools

_tools = Family()
_TOOL_NO_EFFECT = frozenset(
    {
        "async",  # whether the client runs the tool beside others
        "async_",
        "defer_loading",  # every tool is in the prompt from the beginning
        "output_schema",  # describes the result, which only the client checks
    }
)
# Keys of a chat's tools. They are null when a client uses one type for both APIs.
_NESTED_TOOL = dict.fromkeys(("custom", "function"), ())
_TOOL_NEUTRAL: dialects.Values = {**dialects.CACHE_CONTROL, **_NESTED_TOOL}
FORMAT_FIELDS = {
    "text": Fields(mapped(tools.FreeInput), neutral=dict.fromkeys(("definition", "syntax"), ())),
    "grammar": Fields(mapped(tools.FlatGrammarInput)),
}
CALLABLE_FIELDS = {
    "function": _tools.fields(mapped(tools.FlatFunctionTool), _TOOL_NO_EFFECT, _TOOL_NEUTRAL),
    "custom": _tools.fields(
        mapped(tools.FlatCustomTool), _TOOL_NO_EFFECT, _TOOL_NEUTRAL, {"format": Variants("type", FORMAT_FIELDS)}
    ),
}
HOSTED_TOOLS: Mapping[str, type[Struct]] = {
    str(struct.__struct_config__.tag): struct for struct in tools.HostedTool.__subclasses__()
}
TOOL_FIELDS: Mapping[str, Fields] = {
    **CALLABLE_FIELDS,
    "namespace": _tools.fields(
        mapped(tools.NamespaceTool),
        frozenset({"defer_loading"}),
        dialects.CACHE_CONTROL,
        {"tools": ListOf(Variants("type", CALLABLE_FIELDS))},
    ),
    **{name: Fields(mapped(struct), is_open=True) for name, struct in HOSTED_TOOLS.items()},
}
TOOLS = ListOf(Variants("type", TOOL_FIELDS))

_NO_HOSTED = Unsupported("this server doesn't have this tool")
TOOL_CHOICE_FIELDS: Mapping[str, Table] = {
    "function": Fields(mapped(tools.FunctionChoice), neutral=dict.fromkeys(("function", "mode", "tools"), ())),
    "custom": Fields(mapped(tools.CustomToolChoice), neutral=dict.fromkeys(("custom", "mode", "tools"), ())),
    "allowed_tools": Fields(
        mapped(tools.AllowedToolsChoice), nested={"tools": ListOf(Fields(mapped(tools.AllowedTool), is_open=True))}
    ),
    **dict.fromkeys((*HOSTED_TOOLS, "computer_use"), _NO_HOSTED),
}

# ---- Formats and reasoning

_formats = Family()
TEXT_FORMAT_FIELDS = {
    "text": _formats.fields(mapped(PlainFormat)),
    "json_object": _formats.fields(mapped(ObjectFormat)),
    "json_schema": _formats.fields(mapped(FlatSchemaFormat)),
}
_FORMAT: dict[str, Table] = {"format": Variants("type", TEXT_FORMAT_FIELDS)}
TEXT_FIELDS = Fields(mapped(TextConfig), nested=_FORMAT)
REASONING_FIELDS = Fields(
    mapped(ReasoningConfig),
    frozenset({"context"}),  # the chat template chooses which reasoning remains in the prompt
    {"mode": ("standard",)},
)

STREAM_OPTIONS_FIELDS = Fields(
    mapped(StreamConfig),
    frozenset({"include_usage"}),  # a chat's; the last event always has the usage
    {"include_obfuscation": (False,)},
)

# ---- Input items

_items = Family()
_ITEM = frozenset({"created_by", "id", "status"})
"""Identify an item that another server stores, its author and its state."""
_CALL = _ITEM | {
    "async",
    "async_",  # the openai package's name for it, in a dumped model
    "caller",  # the model itself, or a program that it wrote
}


def _item(
    struct: type[Struct],
    no_effect: frozenset[str] = _ITEM,
    neutral: dialects.Values | None = None,
    nested: Mapping[str, Table] | None = None,
) -> Fields:
    return _items.fields(mapped(struct), no_effect - mapped(struct), neutral, nested)


_TOOLS_OF_ITEM: Mapping[str, Table] = {"tools": TOOLS}
_CONTENT: Mapping[str, Table] = {"content": PARTS}
_OUTPUT: Mapping[str, Table] = {"output": PARTS}
_MESSAGE_NEUTRAL: dialects.Values = {**dialects.CACHE_CONTROL, "name": ()}
ITEM_FIELDS: Mapping[str, Fields] = {
    "message": replace(
        _item(items.MessageInput, _ITEM | {"annotations"}, _MESSAGE_NEUTRAL, _CONTENT), implied_tag="type"
    ),
    "reasoning": _item(items.ReasoningInput, nested={"summary": _TEXTS, "content": _TEXTS}),
    "function_call": _item(items.FunctionCallInput, _CALL | {"parsed_arguments"}),
    "function_call_output": _item(items.FunctionCallOutputInput, _CALL | {"name", "namespace"}, nested=_OUTPUT),
    "custom_tool_call": _item(items.CustomToolCallInput, _CALL),
    "custom_tool_call_output": _item(items.CustomToolCallOutputInput, _CALL | {"name", "namespace"}, nested=_OUTPUT),
    "compaction": _item(items.CompactionInput, _ITEM),
    "compaction_trigger": _item(items.CompactionTriggerInput),
    "item_reference": _item(items.ItemReferenceInput),
    "additional_tools": _item(items.AdditionalToolsInput, nested=_TOOLS_OF_ITEM),
    "configuration_update": _item(
        items.ConfigurationUpdateInput,
        nested={"reasoning": Fields(mapped(EffortConfig)), "text": Fields(mapped(FormatConfig), nested=_FORMAT)},
    ),
    "tool_search_output": _item(items.ToolSearchOutputInput, _ITEM | {"call_id", "execution"}, nested=_TOOLS_OF_ITEM),
    **{
        str(struct.__struct_config__.tag): Fields(mapped(struct), is_open=True)
        for struct in (*get_args(items.ShownInput), *get_args(items.SkippedInput))
    },
}
INPUT = ListOf(Variants("type", ITEM_FIELDS))

# ---- The body

STORED: Mapping[str, str] = {
    "prompt": "this server stores no templates. Send the text of the template in 'instructions' or 'input'",
}
"""Fields that refer to something that this server never stores, with the reason why they are refused."""
OTHER_NAMES: Mapping[str, str] = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
"""Fields of a chat, with their names in this API."""
_NOT_INHERITED = frozenset({"max_tokens", "n", "response_format", "return_progress", "timings_per_token"})
_MAPPED = mapped(ResponsesBody) - _NOT_INHERITED
_NO_EFFECT = frozenset(
    {
        "client_metadata",  # Codex's labels
    }
)
_NEUTRAL: dialects.Values = {
    **dict.fromkeys(CHAT_FIELDS.mapped, ()),
    **dialects.CHAT,
    **dict.fromkeys(("access_programs", "background_options", "image", "moderation"), ()),
    **dict.fromkeys((*STORED, *OTHER_NAMES), ()),
    "context_management": ([],),
    "n": (1,),
    "personality": (),
    **dict.fromkeys(("return_progress", "timings_per_token"), (False,)),
}
RESPONSES_FIELDS = Fields(
    _MAPPED,
    _NO_EFFECT,
    {name: values for name, values in _NEUTRAL.items() if name not in _MAPPED | _NO_EFFECT},
    nested={
        "tools": TOOLS,
        "tool_choice": Variants("type", TOOL_CHOICE_FIELDS),
        "input": INPUT,
        "logit_bias": Entries(),
        "conversation": Fields(mapped(ConversationReference)),
        "metadata": Entries(),
        "reasoning": REASONING_FIELDS,
        "stream_options": STREAM_OPTIONS_FIELDS,
        "structured_outputs": STRUCTURED_OUTPUTS_FIELDS,
        "text": TEXT_FIELDS,
    },
)
INCLUDABLE: Sequence[str] = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
"""Values of `include`. Those about tools that this server doesn't have, have no effect."""
