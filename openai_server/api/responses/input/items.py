"""The input items of a `/v1/responses` request and their content parts, as Structs. PURE.

fields.py has the keys that have no effect. Images and audio have no Struct: fields.py refuses them by name.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from openai_server.api.responses.input.configuration import EffortConfig, FormatConfig
from openai_server.api.responses.input.tools import AnyTool
from openai_server.api.schemas.bounds import MAX_TOOLS
from openai_server.core.messages import MAX_PARTS, RefusalPart, TextPart

# ---- Content parts


class PlainTextContent(TextPart, tag="text"):
    """A chat's name for text."""


class InputTextContent(TextPart, tag="input_text"):
    pass


class OutputTextContent(TextPart, tag="output_text"):
    pass


class RefusalContent(RefusalPart, tag="refusal"):
    pass


class SummaryTextContent(TextPart, tag="summary_text"):
    pass


class ReasoningTextContent(TextPart, tag="reasoning_text"):
    pass


Part = (
    PlainTextContent | InputTextContent | OutputTextContent | RefusalContent | SummaryTextContent | ReasoningTextContent
)


class InputFileContent(Struct, tag_field="type", tag="input_file"):
    """A file, whose text the model reads. Has one of `file_id`, `file_data` and `file_url`."""

    file_id: str | None = None
    file_data: str | None = None
    """Base64, or a data URL."""
    file_url: str | None = None
    filename: str | None = None


InputPart = Part | InputFileContent
Text = str | Annotated[list[InputPart], Meta(max_length=MAX_PARTS)]

# ---- Messages, reasoning and calls


class MessageInput(Struct, tag_field="type", tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    phase: Literal["commentary", "final_answer"] | None = None
    """For clients, which send it back. Templates have no such thing."""


class ReasoningInput(Struct, tag_field="type", tag="reasoning"):
    summary: Annotated[list[Part], Meta(max_length=MAX_PARTS)] | None = None
    content: Annotated[list[Part], Meta(max_length=MAX_PARTS)] | None = None
    encrypted_content: str | None = None
    """The reasoning, sealed by this server."""


class FunctionCallInput(Struct, tag_field="type", tag="function_call"):
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class FunctionCallOutputInput(Struct, tag_field="type", tag="function_call_output"):
    call_id: str
    output: Text


class CustomToolCallInput(Struct, tag_field="type", tag="custom_tool_call"):
    call_id: str
    name: str
    input: str
    namespace: str | None = None


class CustomToolCallOutputInput(Struct, tag_field="type", tag="custom_tool_call_output"):
    call_id: str
    output: Text


CallInput = FunctionCallInput | CustomToolCallInput
CallOutputInput = FunctionCallOutputInput | CustomToolCallOutputInput

# ---- Items about the conversation


class CompactionInput(Struct, tag_field="type", tag="compaction"):
    encrypted_content: str
    """A summary of earlier items, sealed by this server."""


class CompactionTriggerInput(Struct, tag_field="type", tag="compaction_trigger"):
    """The last item of a request that compacts the conversation."""


class ItemReferenceInput(Struct, tag_field="type", tag="item_reference"):
    """A stored item."""

    id: str


class AdditionalToolsInput(Struct, tag_field="type", tag="additional_tools"):
    tools: Annotated[list[AnyTool], Meta(max_length=MAX_TOOLS)]
    role: Literal["developer"] | None = None


class ConfigurationUpdateInput(Struct, tag_field="type", tag="configuration_update"):
    """Replaces settings of the request."""

    reasoning: EffortConfig | None = None
    text: FormatConfig | None = None


class ToolSearchOutputInput(Struct, tag_field="type", tag="tool_search_output"):
    tools: Annotated[list[AnyTool], Meta(max_length=MAX_TOOLS)] | None = None


# ---- Items of tools that this server doesn't have
# Other servers return them. They are never refused, so their fields have any type.


class McpCallInput(Struct, tag_field="type", tag="mcp_call"):
    id: Any = None
    name: Any = None
    arguments: Any = None
    output: Any = None
    error: Any = None


class FileSearchCallInput(Struct, tag_field="type", tag="file_search_call"):
    id: Any = None
    queries: Any = None
    results: Any = None


class CodeInterpreterCallInput(Struct, tag_field="type", tag="code_interpreter_call"):
    id: Any = None
    code: Any = None
    outputs: Any = None


class LocalShellCallInput(Struct, tag_field="type", tag="local_shell_call"):
    call_id: Any = None
    action: Any = None


class LocalShellCallOutputInput(Struct, tag_field="type", tag="local_shell_call_output"):
    id: Any = None
    call_id: Any = None
    output: Any = None


class ShellCallInput(Struct, tag_field="type", tag="shell_call"):
    call_id: Any = None
    action: Any = None


class ShellCallOutputInput(Struct, tag_field="type", tag="shell_call_output"):
    call_id: Any = None
    output: Any = None


class ApplyPatchCallInput(Struct, tag_field="type", tag="apply_patch_call"):
    call_id: Any = None
    operation: Any = None


class ApplyPatchCallOutputInput(Struct, tag_field="type", tag="apply_patch_call_output"):
    call_id: Any = None
    output: Any = None
    status: Any = None


class ProgramInput(Struct, tag_field="type", tag="program"):
    call_id: Any = None
    code: Any = None


class ProgramOutputInput(Struct, tag_field="type", tag="program_output"):
    call_id: Any = None
    result: Any = None


ShownInput = (
    McpCallInput
    | FileSearchCallInput
    | CodeInterpreterCallInput
    | LocalShellCallInput
    | LocalShellCallOutputInput
    | ShellCallInput
    | ShellCallOutputInput
    | ApplyPatchCallInput
    | ApplyPatchCallOutputInput
    | ProgramInput
    | ProgramOutputInput
)
"""Items that the model reads as calls of functions and their results."""


class WebSearchCallInput(Struct, tag_field="type", tag="web_search_call"):
    pass


class ComputerCallInput(Struct, tag_field="type", tag="computer_call"):
    pass


class ComputerCallOutputInput(Struct, tag_field="type", tag="computer_call_output"):
    pass


class ImageGenerationCallInput(Struct, tag_field="type", tag="image_generation_call"):
    pass


class McpListToolsInput(Struct, tag_field="type", tag="mcp_list_tools"):
    pass


class McpApprovalRequestInput(Struct, tag_field="type", tag="mcp_approval_request"):
    pass


class McpApprovalResponseInput(Struct, tag_field="type", tag="mcp_approval_response"):
    pass


class ToolSearchCallInput(Struct, tag_field="type", tag="tool_search_call"):
    pass


SkippedInput = (
    WebSearchCallInput
    | ComputerCallInput
    | ComputerCallOutputInput
    | ImageGenerationCallInput
    | McpListToolsInput
    | McpApprovalRequestInput
    | McpApprovalResponseInput
    | ToolSearchCallInput
)
"""Items that say nothing to a model that reads text and can't call the tool: what they found is in the message that
follows, or is an image."""

Item = (
    MessageInput
    | ReasoningInput
    | CallInput
    | CallOutputInput
    | CompactionInput
    | CompactionTriggerInput
    | ItemReferenceInput
    | AdditionalToolsInput
    | ConfigurationUpdateInput
    | ToolSearchOutputInput
    | ShownInput
    | SkippedInput
)


def add_types(items: object) -> None:
    """Adds the type of messages and references, which may be absent."""
    if not isinstance(items, list):
        return
    for item in items:
        if isinstance(item, dict) and item.get("type") is None:
            names = {name for name, value in item.items() if value is not None}
            is_message = ("role" in names and "tools" not in names) or "content" in names <= {"content", "id", "phase"}
            item["type"] = "message" if is_message else "item_reference" if names == {"id"} else None
