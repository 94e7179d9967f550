"""Items of tools that this server doesn't have and that the model doesn't read, in the form in which they are stored,
as Structs. PURE.

As in stored_shown.py, the keys and values are those that the `openai` package's types allow.
"""

from typing import Any, Literal

from openai_server.api.responses.input.stored_shown import Nested, State, StoredTool


class WebPage(Nested, tag_field="type", tag="url"):
    url: str


class Search(Nested, tag_field="type", tag="search"):
    queries: list[str] | None = None
    query: str | None = None
    sources: list[WebPage] | None = None


class OpenPage(Nested, tag_field="type", tag="open_page"):
    url: str | None = None


class FindInPage(Nested, tag_field="type", tag="find_in_page"):
    pattern: str
    url: str


class WebSearchCall(StoredTool, tag_field="type", tag="web_search_call"):
    action: Search | OpenPage | FindInPage
    status: State | Literal["searching", "failed"] = "completed"


class Point(Nested):
    x: int
    y: int


class Click(Nested, tag_field="type", tag="click"):
    button: Literal["left", "right", "wheel", "back", "forward"]
    x: int
    y: int
    keys: list[str] | None = None


class DoubleClick(Nested, tag_field="type", tag="double_click"):
    x: int
    y: int
    keys: list[str] | None = None


class Drag(Nested, tag_field="type", tag="drag"):
    path: list[Point]
    keys: list[str] | None = None


class Keypress(Nested, tag_field="type", tag="keypress"):
    keys: list[str]


class Move(Nested, tag_field="type", tag="move"):
    x: int
    y: int
    keys: list[str] | None = None


class Screenshot(Nested, tag_field="type", tag="screenshot"):
    pass


class Scroll(Nested, tag_field="type", tag="scroll"):
    scroll_x: int
    scroll_y: int
    x: int
    y: int
    keys: list[str] | None = None


class TypeText(Nested, tag_field="type", tag="type"):
    text: str


class Wait(Nested, tag_field="type", tag="wait"):
    pass


ComputerAction = Click | DoubleClick | Drag | Keypress | Move | Screenshot | Scroll | TypeText | Wait


class SafetyCheck(Nested):
    id: str
    code: str | None = None
    message: str | None = None


class ComputerCall(StoredTool, tag_field="type", tag="computer_call"):
    call_id: str
    pending_safety_checks: list[SafetyCheck]
    action: ComputerAction | None = None
    actions: list[ComputerAction] | None = None
    status: State = "completed"


class ComputerScreenshot(Nested, tag_field="type", tag="computer_screenshot"):
    file_id: str | None = None
    image_url: str | None = None


class ComputerCallOutput(StoredTool, tag_field="type", tag="computer_call_output"):
    call_id: str
    output: ComputerScreenshot
    acknowledged_safety_checks: list[SafetyCheck] | None = None
    status: State | Literal["failed"] = "completed"
    created_by: str | None = None


class ModerationDetails(Nested):
    categories: list[str]
    moderation_stage: Literal["input", "output", "unknown"]


class ImageError(Nested):
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    moderation_details: ModerationDetails | None = None


class SvgUsage(Nested):
    input_tokens: int
    model: str
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int


class ImageGenerationCall(StoredTool, tag_field="type", tag="image_generation_call"):
    result: str | None = None
    status: Literal["in_progress", "completed", "generating", "failed"] = "completed"
    action: Literal["generate", "edit", "auto"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    error: ImageError | None = None
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] | None = None
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto"] | None = None
    revised_prompt: str | None = None
    size: str | None = None
    svg_usage: SvgUsage | None = None


class ListedTool(Nested):
    input_schema: Any
    name: str
    annotations: Any = None
    description: str | None = None


class McpListTools(StoredTool, tag_field="type", tag="mcp_list_tools"):
    server_label: str
    tools: list[ListedTool]
    error: str | None = None


class McpApprovalRequest(StoredTool, tag_field="type", tag="mcp_approval_request"):
    arguments: str
    name: str
    server_label: str


class McpApprovalResponse(StoredTool, tag_field="type", tag="mcp_approval_response"):
    approval_request_id: str
    approve: bool
    reason: str | None = None


class ToolSearchCall(StoredTool, tag_field="type", tag="tool_search_call"):
    arguments: Any
    call_id: str | None = None
    execution: Literal["server", "client"] = "client"
    status: State = "completed"
    created_by: str | None = None


StoredSkipped = (
    WebSearchCall
    | ComputerCall
    | ComputerCallOutput
    | ImageGenerationCall
    | McpListTools
    | McpApprovalRequest
    | McpApprovalResponse
    | ToolSearchCall
)
"""The stored forms of SkippedInput."""
