"""How the Messages API handles each key of each JSON object. PURE.

Clients of this API send keys of many betas, and give up if one is refused. So a key that is in no list is ignored,
with a line in the debug log, and so is a block of an unknown type. tests/openai_server/api/messages/test_fields.py
walks the types of the `anthropic` package and fails for a key or type that is in no table.
"""

from msgspec import Struct

from openai_server.api.messages import blocks, schema, tools
from openai_server.api.messages.schema import CountTokensRequest, JsonOutputFormat, MessagesRequest, OutputConfig
from openai_server.api.schemas.fields import STRUCTURED_OUTPUTS_FIELDS
from openai_server.api.schemas.tables import Entries, Fields, KnownItems, ListOf, Table, Variants, mapped

ByStruct = dict[type[Struct], Fields]


def _fields(
    struct: type[Struct], no_effect: frozenset[str] = frozenset(), nested: dict[str, Table] | None = None
) -> Fields:
    return Fields(mapped(struct), no_effect, nested=nested or {}, is_open=True)


def _by_tag(tag: str, tables: ByStruct) -> Variants:
    return Variants(tag, {str(struct.__struct_config__.tag): fields for struct, fields in tables.items()})


_CACHE = frozenset({"cache_control"})  # prefixes are always cached
_CITED = _CACHE | {"citations"}  # the model cites nothing

# ---- Blocks

_TEXT: ByStruct = {blocks.TextBlockParam: _fields(blocks.TextBlockParam, _CITED)}
_TEXTS = KnownItems(_by_tag("type", _TEXT))
_IMAGE: ByStruct = {blocks.ImageBlockParam: _fields(blocks.ImageBlockParam, _CACHE | {"transformations"})}
SOURCES = _by_tag(
    "type",
    {
        blocks.PlainTextSource: _fields(blocks.PlainTextSource, frozenset({"media_type"})),
        blocks.ContentSource: _fields(
            blocks.ContentSource, nested={"content": KnownItems(_by_tag("type", {**_TEXT, **_IMAGE}))}
        ),
        blocks.Base64Source: _fields(blocks.Base64Source, frozenset({"media_type"})),
        blocks.UrlSource: _fields(blocks.UrlSource),
        blocks.FileSource: _fields(blocks.FileSource),
    },
)
_RESULT: ByStruct = {
    **_TEXT,
    **_IMAGE,
    blocks.SearchResultBlockParam: _fields(blocks.SearchResultBlockParam, _CITED, {"content": _TEXTS}),
    blocks.DocumentBlockParam: _fields(blocks.DocumentBlockParam, _CITED, {"source": SOURCES}),
    blocks.ToolReferenceBlockParam: _fields(blocks.ToolReferenceBlockParam, _CACHE),
    blocks.BrowserStateBlockParam: _fields(blocks.BrowserStateBlockParam, _CACHE | {"state_changes", "tabs"}),
}
RESULT_BLOCKS = _by_tag("type", _RESULT)
_SERVER_USE = _CACHE | {"caller", "id", "input", "name", "server_name"}
_SERVER_RESULT = _CACHE | {"caller", "content", "tool_use_id"}
_BLOCKS: ByStruct = {
    **_RESULT,
    blocks.ThinkingBlockParam: _fields(blocks.ThinkingBlockParam),
    blocks.RedactedThinkingBlockParam: _fields(blocks.RedactedThinkingBlockParam, frozenset({"data"})),
    blocks.ToolUseBlockParam: _fields(blocks.ToolUseBlockParam, _CACHE | {"caller", "toolset_name"}),
    blocks.ToolResultBlockParam: _fields(
        blocks.ToolResultBlockParam, _CACHE | {"toolset_name"}, {"content": KnownItems(RESULT_BLOCKS)}
    ),
    blocks.ServerToolUseBlockParam: _fields(blocks.ServerToolUseBlockParam, _SERVER_USE),
    blocks.McpToolUseBlockParam: _fields(blocks.McpToolUseBlockParam, _SERVER_USE),
    blocks.McpToolResultBlockParam: _fields(
        blocks.McpToolResultBlockParam, _CACHE | {"is_error", "tool_use_id"}, {"content": _TEXTS}
    ),
    **{
        result: _fields(result, _SERVER_RESULT)
        for result in (
            blocks.WebSearchToolResultBlockParam,
            blocks.WebFetchToolResultBlockParam,
            blocks.CodeExecutionToolResultBlockParam,
            blocks.BashCodeExecutionToolResultBlockParam,
            blocks.TextEditorCodeExecutionToolResultBlockParam,
            blocks.ToolSearchToolResultBlockParam,
            blocks.AdvisorToolResultBlockParam,
        )
    },
    blocks.CompactionBlockParam: _fields(
        blocks.CompactionBlockParam, _CACHE | {"encrypted_content", "signature", "tool_changes"}
    ),
    blocks.ContainerUploadBlockParam: _fields(blocks.ContainerUploadBlockParam, _CACHE | {"file_id"}),
    blocks.FallbackBlockParam: _fields(blocks.FallbackBlockParam, frozenset({"from", "to", "trigger"})),
    blocks.McpToolListingBlockParam: _fields(blocks.McpToolListingBlockParam, frozenset({"mcp_server_name", "tools"})),
    blocks.ToolAdditionBlockParam: _fields(blocks.ToolAdditionBlockParam, _CACHE | {"tool"}),
    blocks.ToolRemovalBlockParam: _fields(blocks.ToolRemovalBlockParam, _CACHE | {"tool"}),
}
BLOCKS = _by_tag("type", _BLOCKS)
_CONTENT: dict[str, Table] = {"content": KnownItems(BLOCKS)}

MESSAGES = _by_tag(
    "role",
    {
        blocks.UserMessageParam: _fields(blocks.UserMessageParam, nested=_CONTENT),
        blocks.AssistantMessageParam: _fields(blocks.AssistantMessageParam, nested=_CONTENT),
        blocks.SystemMessageParam: _fields(
            blocks.SystemMessageParam, frozenset({"output_config"}), {"content": _TEXTS}
        ),
    },
)

# ---- Tools

TOOL = _fields(
    tools.ToolParam,
    _CACHE
    | {
        "defer_loading",  # all tools are in the prompt
        "eager_input_streaming",  # arguments are always streamed
        "input_examples",
        # of tools that run on a server, and of sets of tools
        *("allowed_domains", "blocked_domains", "caching", "citations", "configs", "default_config"),
        *("display_height_px", "display_number", "display_width_px", "enable_zoom", "max_characters"),
        *("max_content_tokens", "max_tokens", "max_uses", "mcp_server_name", "model", "response_inclusion", "tools"),
        *("url_sources", "use_cache", "user_location"),
    },
)
TOOL_CHOICES = _by_tag(
    "type",
    {
        choice: _fields(choice)
        for choice in (tools.ToolChoiceAuto, tools.ToolChoiceAny, tools.ToolChoiceTool, tools.ToolChoiceNone)
    },
)

# ---- The rest of a request

_BINDING = frozenset({"block_binding"})
THINKING = _by_tag(
    "type",
    {
        schema.ThinkingEnabled: _fields(schema.ThinkingEnabled, _BINDING),
        schema.ThinkingAdaptive: _fields(schema.ThinkingAdaptive, _BINDING),
        schema.ThinkingBetweenTools: _fields(schema.ThinkingBetweenTools),
        schema.ThinkingDisabled: _fields(schema.ThinkingDisabled),
    },
)
OUTPUT_FORMATS = _by_tag("type", {JsonOutputFormat: _fields(JsonOutputFormat)})
OUTPUT_CONFIG = _fields(OutputConfig, frozenset({"task_budget"}), {"format": OUTPUT_FORMATS})

NO_EFFECT = _CACHE | {
    "betas",  # the package sends it as a header
    "billing_policy",
    "compaction",  # the client gets an error once the context is full
    "container",  # for tools that run on a server
    "context_management",  # as `compaction`
    "diagnostics",
    "fallback_credit_token",
    "fallbacks",  # another model never answers
    "inference_geo",
    "mcp_servers",  # for tools that run on a server
    "service_tier",  # selects one of Anthropic's queues; there is one queue
    "speed",
    "user_profile_id",
    "workspace_id",
}
_NEUTRAL = {"thread": ()}  # continues a conversation that the server stores; nothing is stored here
_NESTED: dict[str, Table] = {
    "messages": ListOf(MESSAGES),
    "output_config": OUTPUT_CONFIG,
    "output_format": OUTPUT_FORMATS,
    "system": _TEXTS,
    "thinking": THINKING,
    "tool_choice": TOOL_CHOICES,
    "tools": ListOf(TOOL),
}
MESSAGES_FIELDS = Fields(
    mapped(MessagesRequest),
    NO_EFFECT,
    _NEUTRAL,
    nested={**_NESTED, "logit_bias": Entries(), "structured_outputs": STRUCTURED_OUTPUTS_FIELDS},
    is_open=True,
)
COUNT_FIELDS = Fields(
    mapped(CountTokensRequest),
    NO_EFFECT | (mapped(MessagesRequest) - mapped(CountTokensRequest)),
    _NEUTRAL,
    nested=_NESTED,
    is_open=True,
)
