"""The messages of a request and their content blocks, as Structs with the names of the `anthropic` package. PURE.

`fields.py` decides which keys are accepted, and removes blocks of unknown types before the conversion to these.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from openai_server.core.messages import MAX_PARTS

# ---- Text


class TextBlockParam(Struct, tag_field="type", tag="text"):
    text: str


class SearchResultBlockParam(Struct, tag_field="type", tag="search_result"):
    title: str
    source: str
    content: Annotated[list[TextBlockParam], Meta(max_length=MAX_PARTS)]


# ---- Media


class ImageBlockParam(Struct, tag_field="type", tag="image"):
    """Refused: models that read images are not supported yet."""

    source: Any


class PlainTextSource(Struct, tag_field="type", tag="text"):
    data: str


class ContentSource(Struct, tag_field="type", tag="content"):
    content: str | Annotated[list[TextBlockParam | ImageBlockParam], Meta(max_length=MAX_PARTS)]


class Base64Source(Struct, tag_field="type", tag="base64"):
    data: str


class UrlSource(Struct, tag_field="type", tag="url"):
    url: str


class FileSource(Struct, tag_field="type", tag="file"):
    file_id: str


DocumentSource = PlainTextSource | ContentSource | Base64Source | UrlSource | FileSource


class DocumentBlockParam(Struct, tag_field="type", tag="document"):
    source: DocumentSource
    title: str | None = None
    context: str | None = None


# ---- Reasoning


class ThinkingBlockParam(Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str | None = None


class RedactedThinkingBlockParam(Struct, tag_field="type", tag="redacted_thinking"):
    """Left out: only the server that created it can read it."""


# ---- Tools of the client


class ToolUseBlockParam(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ToolReferenceBlockParam(Struct, tag_field="type", tag="tool_reference"):
    """A tool that a search found. All tools are in the prompt anyway."""

    tool_name: str


class BrowserStateBlockParam(Struct, tag_field="type", tag="browser_state"):
    """The tabs of a browser that Anthropic's models control. Left out."""


ResultBlock = (
    TextBlockParam
    | ImageBlockParam
    | SearchResultBlockParam
    | DocumentBlockParam
    | ToolReferenceBlockParam
    | BrowserStateBlockParam
)


class ToolResultBlockParam(Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | Annotated[list[ResultBlock], Meta(max_length=MAX_PARTS)] | None = None
    is_error: bool | None = None


# ---- Tools that run on a server. Such blocks are left out, except for the text of some results.


class ServerToolUseBlockParam(Struct, tag_field="type", tag="server_tool_use"):
    pass


class McpToolUseBlockParam(Struct, tag_field="type", tag="mcp_tool_use"):
    pass


class McpToolResultBlockParam(Struct, tag_field="type", tag="mcp_tool_result"):
    content: str | Annotated[list[TextBlockParam], Meta(max_length=MAX_PARTS)] | None = None


class WebSearchToolResultBlockParam(Struct, tag_field="type", tag="web_search_tool_result"):
    pass


class WebFetchToolResultBlockParam(Struct, tag_field="type", tag="web_fetch_tool_result"):
    pass


class CodeExecutionToolResultBlockParam(Struct, tag_field="type", tag="code_execution_tool_result"):
    pass


class BashCodeExecutionToolResultBlockParam(Struct, tag_field="type", tag="bash_code_execution_tool_result"):
    pass


class TextEditorCodeExecutionToolResultBlockParam(
    Struct, tag_field="type", tag="text_editor_code_execution_tool_result"
):
    pass


class ToolSearchToolResultBlockParam(Struct, tag_field="type", tag="tool_search_tool_result"):
    pass


class AdvisorToolResultBlockParam(Struct, tag_field="type", tag="advisor_tool_result"):
    pass


# ---- Others


class CompactionBlockParam(Struct, tag_field="type", tag="compaction"):
    """A summary of the messages before it."""

    content: str | None = None


class ContainerUploadBlockParam(Struct, tag_field="type", tag="container_upload"):
    """Left out, as the blocks below."""


class FallbackBlockParam(Struct, tag_field="type", tag="fallback"):
    pass


class McpToolListingBlockParam(Struct, tag_field="type", tag="mcp_tool_listing"):
    pass


class ToolAdditionBlockParam(Struct, tag_field="type", tag="tool_addition"):
    pass


class ToolRemovalBlockParam(Struct, tag_field="type", tag="tool_removal"):
    pass


Block = (
    TextBlockParam
    | ImageBlockParam
    | DocumentBlockParam
    | SearchResultBlockParam
    | ThinkingBlockParam
    | RedactedThinkingBlockParam
    | ToolUseBlockParam
    | ToolResultBlockParam
    | ToolReferenceBlockParam
    | BrowserStateBlockParam
    | ServerToolUseBlockParam
    | McpToolUseBlockParam
    | McpToolResultBlockParam
    | WebSearchToolResultBlockParam
    | WebFetchToolResultBlockParam
    | CodeExecutionToolResultBlockParam
    | BashCodeExecutionToolResultBlockParam
    | TextEditorCodeExecutionToolResultBlockParam
    | ToolSearchToolResultBlockParam
    | AdvisorToolResultBlockParam
    | CompactionBlockParam
    | ContainerUploadBlockParam
    | FallbackBlockParam
    | McpToolListingBlockParam
    | ToolAdditionBlockParam
    | ToolRemovalBlockParam
)
Blocks = str | Annotated[list[Block], Meta(max_length=MAX_PARTS)]
SystemContent = str | Annotated[list[TextBlockParam], Meta(max_length=MAX_PARTS)]

# ---- Messages


class UserMessageParam(Struct, tag_field="role", tag="user"):
    content: Blocks


class AssistantMessageParam(Struct, tag_field="role", tag="assistant"):
    content: Blocks


class SystemMessageParam(Struct, tag_field="role", tag="system"):
    """Instructions that apply from their place in the conversation on. With `clear_at: next_user_message` they are left
    out once a user message follows."""

    content: SystemContent
    clear_at: Literal["next_user_message", "never"] | None = None


MessageParam = UserMessageParam | AssistantMessageParam | SystemMessageParam
