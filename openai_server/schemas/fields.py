"""What becomes of each key of each JSON object of the API.

PURE. No field is accepted and ignored. A `Fields` table says of each key: mapped (it is an attribute of the msgspec
Struct), without effect on the output, or refused unless its value asks for what happens anyway.
tests/openai_server/test_schemas.py walks the types of the `openai` package and fails for a key that is in none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from openai_server.errors import InvalidRequest, UnsupportedParameter, shortened
from openai_server.schemas.messages import (
    AllowedToolChoice,
    AllowedTools,
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    FunctionDefinition,
    FunctionMessage,
    FunctionName,
    NamedTool,
    SystemMessage,
    TextPart,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.schemas.requests import (
    ChatRequest,
    CompletionRequest,
    StreamOptions,
)


@dataclass(frozen=True, slots=True)
class Fields:
    mapped: frozenset[str]
    no_effect: frozenset[str] = frozenset()
    """Known to have no effect on the output, whatever their value."""
    neutral: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """Fields that are not supported, with the values that ask for what happens anyway. null always does."""

    def check(self, given: Mapping[str, object], path: str = "") -> None:
        """Raises for a key that would be ignored."""
        for key, value in given.items():
            if key in self.mapped or key in self.no_effect:
                continue
            if key not in self.neutral:
                field = path + shortened(key)
                raise InvalidRequest(f"Unrecognized request argument supplied: {field}", param=field)
            # Types are compared too, since 0 == False.
            if value is not None and not any(type(value) is type(same) and value == same for same in self.neutral[key]):
                raise UnsupportedParameter(path + key)


def mapped(struct: type[Struct]) -> frozenset[str]:
    """All of its attributes."""
    return frozenset(struct.__struct_fields__)


NO_EFFECT = frozenset({"user"})  # identifies the end user to OpenAI's abuse monitoring

COMPLETION_FIELDS = Fields(mapped(CompletionRequest), NO_EFFECT)

CHAT_FIELDS = Fields(
    mapped(ChatRequest),
    NO_EFFECT
    | {
        "metadata",  # labels of a stored answer; nothing is stored here
        "prediction",  # a hint that may make the answer come sooner
        "prompt_cache_key",  # routes to a server with a warm cache; there is one server
        "prompt_cache_options",  # prefixes are always cached
        "prompt_cache_retention",
        "safety_identifier",  # as `user`
        "service_tier",  # which queue of OpenAI's; there is one
        "store",  # nothing is stored, which the answer doesn't show
    },
    {
        "audio": (),
        "modalities": (["text"],),
        "moderation": (),
        "verbosity": ("medium",),  # OpenAI's default
        "web_search_options": (),
    },
)

STREAM_OPTIONS_FIELDS = Fields(mapped(StreamOptions), neutral={"include_obfuscation": (False,)})

RESPONSE_FORMAT_FIELDS = {
    "text": Fields(frozenset({"type"})),
    "json_object": Fields(frozenset({"type", "schema"})),
    "json_schema": Fields(frozenset({"type", "json_schema"})),
}
NAMED_SCHEMA_FIELDS = Fields(frozenset({"name", "schema", "strict"}), frozenset({"description"}))

_ROLE = frozenset({"role"})
MESSAGE_FIELDS: dict[str, Fields] = {
    "system": Fields(mapped(SystemMessage) | _ROLE),
    "developer": Fields(mapped(DeveloperMessage) | _ROLE),
    "user": Fields(mapped(UserMessage) | _ROLE),
    "assistant": Fields(
        mapped(AssistantMessage) | _ROLE,
        # What a client sends back of our own answer, and nothing in it.
        neutral={"annotations": ([],), "audio": (), "refusal": ()},
    ),
    "tool": Fields(mapped(ToolMessage) | _ROLE),
    "function": Fields(mapped(FunctionMessage) | _ROLE),
}
TEXT_PART_FIELDS = Fields(mapped(TextPart), neutral={"prompt_cache_breakpoint": ()})
TOOL_CALL_FIELDS = Fields(mapped(ToolCall))
FUNCTION_CALL_FIELDS = Fields(mapped(FunctionCall))
TOOL_FIELDS = Fields(mapped(Tool))
FUNCTION_FIELDS = Fields(mapped(FunctionDefinition))
FUNCTION_NAME_FIELDS = Fields(mapped(FunctionName))
TOOL_CHOICE_FIELDS = {
    "function": Fields(mapped(NamedTool) | {"type"}),
    "allowed_tools": Fields(mapped(AllowedToolChoice) | {"type"}),
}
ALLOWED_TOOLS_FIELDS = Fields(mapped(AllowedTools))
