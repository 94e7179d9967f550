"""How the generating endpoints handle each key of each JSON object.

PURE. No field is accepted and silently ignored. A table lists three kinds of keys: mapped (an attribute of the msgspec
Struct), without effect on the output, and unsupported (refused, except for values that change nothing). A null field
counts as absent. Whatever a response contains can be sent back. tests/openai_server/api/test_schemas.py walks the types
of the `openai` package and fails for a key that is in no table.
"""

from openai_server.api.schemas import dialects
from openai_server.api.schemas.formats import JsonObjectFormat, JsonSchemaFormat, TextFormat
from openai_server.api.schemas.guides import StructuredOutputs
from openai_server.api.schemas.requests import ChatRequest, CompletionRequest, StreamOptions
from openai_server.api.schemas.tables import Entries, Family, Fields, ListOf, Table, Variants, mapped
from openai_server.api.schemas.tools import (
    AllowedToolChoice,
    AllowedTools,
    AnyInput,
    CustomDefinition,
    CustomTool,
    FunctionTool,
    GrammarDefinition,
    GrammarInput,
    NamedCustomTool,
    NamedTool,
    ToolReference,
)
from openai_server.core.messages import (
    AnswerPart,
    AssistantMessage,
    Audio,
    CustomCall,
    CustomToolCall,
    DeveloperMessage,
    FilePart,
    FunctionCall,
    FunctionMessage,
    InputTextPart,
    OutputTextPart,
    PromptFile,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.core.tools import FunctionDefinition

_ID = frozenset({"id"})  # identifies an object that another server stores

# ---- Messages

_parts = Family()
_PART_NO_EFFECT = _ID | {
    "annotations",  # the places where a text quotes search results
    "logprobs",
    "prompt_cache_breakpoint",  # prefixes are always cached
}
_PART_NEUTRAL: dialects.Values = {
    **dialects.CACHE_CONTROL,
    # Null from clients that use one type for all kinds of parts.
    **dict.fromkeys(("audio_url", "file", "image_url", "input_audio", "thinking", "uuid", "video_url"), ()),
}
FILE_FIELDS = Fields(mapped(PromptFile), neutral=dict.fromkeys(("file_url", "format"), ()))
PART_FIELDS = {
    **{
        tag: _parts.fields(mapped(struct), _PART_NO_EFFECT, _PART_NEUTRAL)
        for tag, struct in (("text", TextPart), ("input_text", InputTextPart), ("output_text", OutputTextPart))
    },
    "file": _parts.fields(
        mapped(FilePart),
        _PART_NO_EFFECT,
        {name: values for name, values in _PART_NEUTRAL.items() if name != "file"},
        {"file": FILE_FIELDS},
    ),
}
_PARTS = ListOf(Variants("type", PART_FIELDS))

_ANSWER_NO_EFFECT = _ID | {
    "annotations",
    "citations",  # vLLM's field, for Cohere's models
    "index",  # @openai/agents copies it from a tool call
    "parsed",  # the openai package's, for the parsed content
    "provider_specific_fields",  # LiteLLM's
}
_ANSWER_NEUTRAL: dialects.Values = {
    **dialects.CACHE_CONTROL,
    "content_parts": (),  # in a stored message
    "images": ([],),
    "phase": (),  # from the Responses API
    "prefix": (False,),
    "reasoning_details": ([],),
    "reasoning_items": ([],),
    "thinking": (),
    "thinking_blocks": ([],),
}
# Fields that @openai/agents copies from a message into each of its parts.
_REPEATED = (mapped(AssistantMessage) | _ANSWER_NO_EFFECT) - {"content", "reasoning", "reasoning_content", "refusal"}
_ANSWER_PART_NEUTRAL: dialects.Values = {**_ANSWER_NEUTRAL, **_PART_NEUTRAL, "content": ()}
ANSWER_PART_FIELDS = {
    "text": _parts.fields(mapped(AnswerPart), _PART_NO_EFFECT | _REPEATED | {"refusal"}, _ANSWER_PART_NEUTRAL),
    "input_text": PART_FIELDS["input_text"],
    "output_text": PART_FIELDS["output_text"],
    "refusal": _parts.fields(mapped(RefusalPart), _PART_NO_EFFECT | _REPEATED, _ANSWER_PART_NEUTRAL),
}

_calls = Family()
FUNCTION_CALL_FIELDS = Fields(
    mapped(FunctionCall),
    frozenset({"parsed_arguments", "provider_specific_fields"}),  # from the openai package and LiteLLM
)
CUSTOM_CALL_FIELDS = Fields(mapped(CustomCall))
_CALL_NEUTRAL: dialects.Values = {"extra_content": ()}  # Gemini's
_CALL_NO_EFFECT = frozenset(
    {
        "index",  # in a stream, identifies the call that a delta belongs to
        "provider_specific_fields",
    }
)
TOOL_CALL_FIELDS = _calls.fields(mapped(ToolCall), _CALL_NO_EFFECT, _CALL_NEUTRAL, {"function": FUNCTION_CALL_FIELDS})
CUSTOM_TOOL_CALL_FIELDS = _calls.fields(
    mapped(CustomToolCall), _CALL_NO_EFFECT, _CALL_NEUTRAL, {"custom": CUSTOM_CALL_FIELDS}
)

AUDIO_FIELDS = Fields(mapped(Audio), _ID | {"data", "expires_at", "format"})

_messages = Family()
_CONTENT: dict[str, Table] = {"content": _PARTS}
MESSAGE_FIELDS: dict[str, Fields] = {
    "system": _messages.fields(mapped(SystemMessage), _ID, dialects.CACHE_CONTROL, _CONTENT),
    "developer": _messages.fields(mapped(DeveloperMessage), _ID, dialects.CACHE_CONTROL, _CONTENT),
    "user": _messages.fields(mapped(UserMessage), _ID, dialects.CACHE_CONTROL, _CONTENT),
    "assistant": _messages.fields(
        mapped(AssistantMessage),
        _ANSWER_NO_EFFECT,
        _ANSWER_NEUTRAL,
        {
            "audio": AUDIO_FIELDS,
            "content": ListOf(Variants("type", ANSWER_PART_FIELDS)),
            "function_call": FUNCTION_CALL_FIELDS,
            "tool_calls": ListOf(Variants("type", {"function": TOOL_CALL_FIELDS, "custom": CUSTOM_TOOL_CALL_FIELDS})),
        },
    ),
    "tool": _messages.fields(mapped(ToolMessage), _ID, dialects.CACHE_CONTROL, _CONTENT),
    "function": _messages.fields(mapped(FunctionMessage), _ID, dialects.CACHE_CONTROL),
}
MESSAGES = ListOf(Variants("role", MESSAGE_FIELDS))

# ---- Tools

_TOOL_NEUTRAL: dialects.Values = {**dialects.CACHE_CONTROL, "defer_loading": (False,)}
FUNCTION_FIELDS = Fields(mapped(FunctionDefinition), neutral=_TOOL_NEUTRAL)
# Keys of the Responses API's flat form. They are null when a client uses one type for both APIs.
_FLAT_TOOL = dict.fromkeys(("description", "format", "name", "parameters", "strict"), ())
_FLAT_CHOICE = dict.fromkeys(("mode", "name", "tools"), ())
_FLAT_FORMAT = dict.fromkeys(("description", "name", "strict"), ())
_tools = Family()
TOOL_FIELDS = _tools.fields(
    mapped(FunctionTool), neutral={**_TOOL_NEUTRAL, **_FLAT_TOOL}, nested={"function": FUNCTION_FIELDS}
)
_inputs = Family()
_FLAT_INPUT = dict.fromkeys(("definition", "syntax"), ())
GRAMMAR_DEFINITION_FIELDS = Fields(mapped(GrammarDefinition))
CUSTOM_FORMAT_FIELDS = {
    "text": _inputs.fields(mapped(AnyInput), neutral=_FLAT_INPUT),
    "grammar": _inputs.fields(mapped(GrammarInput), neutral=_FLAT_INPUT, nested={"grammar": GRAMMAR_DEFINITION_FIELDS}),
}
CUSTOM_FIELDS = Fields(
    mapped(CustomDefinition), neutral=_TOOL_NEUTRAL, nested={"format": Variants("type", CUSTOM_FORMAT_FIELDS)}
)
CUSTOM_TOOL_FIELDS = _tools.fields(
    mapped(CustomTool), neutral={**_TOOL_NEUTRAL, **_FLAT_TOOL}, nested={"custom": CUSTOM_FIELDS}
)
FUNCTION_NAME_FIELDS = Fields(mapped(ToolReference))
_choices = Family()
_NAMED_TOOL = _choices.fields(mapped(NamedTool), neutral=_FLAT_CHOICE, nested={"function": FUNCTION_NAME_FIELDS})
_NAMED_CUSTOM_TOOL = _choices.fields(
    mapped(NamedCustomTool), neutral=_FLAT_CHOICE, nested={"custom": FUNCTION_NAME_FIELDS}
)
_NAMED = {"function": _NAMED_TOOL, "custom": _NAMED_CUSTOM_TOOL}
ALLOWED_TOOLS_FIELDS = Fields(mapped(AllowedTools), nested={"tools": ListOf(Variants("type", _NAMED))})
TOOL_CHOICE_FIELDS = {
    **_NAMED,
    "allowed_tools": _choices.fields(mapped(AllowedToolChoice), nested={"allowed_tools": ALLOWED_TOOLS_FIELDS}),
}

# ---- The rest of a request

STREAM_OPTIONS_FIELDS = Fields(
    mapped(StreamOptions), neutral={"continuous_usage_stats": (False,), "include_obfuscation": (False,)}
)

_formats = Family()
NAMED_SCHEMA_FIELDS = Fields(frozenset({"name", "schema", "strict"}), frozenset({"description"}))
RESPONSE_FORMAT_FIELDS = {
    "text": _formats.fields(mapped(TextFormat), neutral=_FLAT_FORMAT),
    "json_object": _formats.fields(mapped(JsonObjectFormat)),
    "json_schema": _formats.fields(mapped(JsonSchemaFormat), nested={"json_schema": NAMED_SCHEMA_FIELDS}),
}

STRUCTURED_OUTPUTS_FIELDS = Fields(
    mapped(StructuredOutputs),
    frozenset({"disable_fallback"}),  # whether vLLM tries another of its backends for guides
    {"structural_tag": ()},
)

REQUESTS = Family()
"""The bodies of all endpoints, since clients use one type for the settings of several endpoints."""
_NESTED: dict[str, Table] = {
    "logit_bias": Entries(),
    "response_format": Variants("type", RESPONSE_FORMAT_FIELDS),
    "stream_options": STREAM_OPTIONS_FIELDS,
    "structured_outputs": STRUCTURED_OUTPUTS_FIELDS,
}

NO_EFFECT = frozenset({"user"})  # identifies the end user to OpenAI's abuse monitoring
_GUIDE_NO_EFFECT = frozenset({"guided_decoding_backend"})  # selects one of vLLM's libraries for guides

COMPLETION_FIELDS = REQUESTS.fields(
    mapped(CompletionRequest), NO_EFFECT | _GUIDE_NO_EFFECT, dialects.COMPLETIONS, _NESTED
)

CHAT_FIELDS = REQUESTS.fields(
    mapped(ChatRequest),
    _GUIDE_NO_EFFECT,
    {
        **dialects.CHAT,
        "audio": (),
        "modalities": (["text"],),
        "moderation": (),
        "web_search_options": (),
    },
    {
        **_NESTED,
        "function_call": FUNCTION_NAME_FIELDS,
        "functions": ListOf(FUNCTION_FIELDS),
        "messages": MESSAGES,
        "tool_choice": Variants("type", TOOL_CHOICE_FIELDS),
        "tools": ListOf(Variants("type", {"function": TOOL_FIELDS, "custom": CUSTOM_TOOL_FIELDS})),
    },
)
