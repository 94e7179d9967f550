"""The values of `tools` and `tool_choice` in a `/v1/responses` body, as Structs. PURE."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from openai_server.api.schemas.bounds import MAX_TOOLS
from openai_server.core.tools import CustomFormat, FunctionDefinition, Tool, ToolName, custom_tool

# ---- Tools that the answer can call


class FlatFunctionTool(Struct, tag_field="type", tag="function"):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: list[str] | None = None
    """Kinds of callers; without `direct` the model must not call the tool."""

    def tool(self, name: str, description: str | None) -> Tool:
        function = FunctionDefinition(name, description, self.parameters, self.strict)
        return Tool(function, enforcement="demanded" if self.strict else "best_effort")


class FreeInput(Struct, tag_field="type", tag="text"):
    pass


class FlatGrammarInput(Struct, tag_field="type", tag="grammar"):
    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Meta(min_length=1)]


class FlatCustomTool(Struct, tag_field="type", tag="custom"):
    name: ToolName
    description: str | None = None
    format: FreeInput | FlatGrammarInput | None = None
    allowed_callers: list[str] | None = None

    def tool(self, name: str, description: str | None) -> Tool:
        format = CustomFormat()
        if isinstance(self.format, FlatGrammarInput):
            format = CustomFormat(self.format.syntax, self.format.definition)
        return custom_tool(name, description, format)


CallableTool = FlatFunctionTool | FlatCustomTool


class NamespaceTool(Struct, tag_field="type", tag="namespace"):
    name: ToolName
    tools: Annotated[list[CallableTool], Meta(max_length=MAX_TOOLS)]
    description: str | None = None


# ---- Tools that run on OpenAI's servers
# They are accepted and left out: the answer never calls them.


class HostedTool(Struct):
    pass


class FileSearchTool(HostedTool, tag_field="type", tag="file_search"):
    pass


class WebSearchTool(HostedTool, tag_field="type", tag="web_search"):
    pass


class DatedWebSearchTool(HostedTool, tag_field="type", tag="web_search_2025_08_26"):
    pass


class WebSearchPreviewTool(HostedTool, tag_field="type", tag="web_search_preview"):
    pass


class DatedWebSearchPreviewTool(HostedTool, tag_field="type", tag="web_search_preview_2025_03_11"):
    pass


class McpTool(HostedTool, tag_field="type", tag="mcp"):
    pass


class CodeInterpreterTool(HostedTool, tag_field="type", tag="code_interpreter"):
    pass


class ImageGenerationTool(HostedTool, tag_field="type", tag="image_generation"):
    pass


class LocalShellTool(HostedTool, tag_field="type", tag="local_shell"):
    pass


class ShellTool(HostedTool, tag_field="type", tag="shell"):
    pass


class ApplyPatchTool(HostedTool, tag_field="type", tag="apply_patch"):
    pass


class ComputerTool(HostedTool, tag_field="type", tag="computer"):
    pass


class ComputerUsePreviewTool(HostedTool, tag_field="type", tag="computer_use_preview"):
    pass


class ToolSearchTool(HostedTool, tag_field="type", tag="tool_search"):
    pass


class ProgrammaticToolCallingTool(HostedTool, tag_field="type", tag="programmatic_tool_calling"):
    pass


AnyHostedTool = (
    FileSearchTool
    | WebSearchTool
    | DatedWebSearchTool
    | WebSearchPreviewTool
    | DatedWebSearchPreviewTool
    | McpTool
    | CodeInterpreterTool
    | ImageGenerationTool
    | LocalShellTool
    | ShellTool
    | ApplyPatchTool
    | ComputerTool
    | ComputerUsePreviewTool
    | ToolSearchTool
    | ProgrammaticToolCallingTool
)
AnyTool = CallableTool | NamespaceTool | AnyHostedTool

# ---- Choice


class FunctionChoice(Struct, tag_field="type", tag="function"):
    name: str
    namespace: str | None = None


class CustomToolChoice(Struct, tag_field="type", tag="custom"):
    name: str
    namespace: str | None = None


class AllowedTool(Struct):
    """A tool by its name, or by its type alone."""

    type: Annotated[str, Meta(max_length=64)]
    name: str | None = None
    namespace: str | None = None


class AllowedToolsChoice(Struct, tag_field="type", tag="allowed_tools"):
    tools: Annotated[list[AllowedTool], Meta(max_length=MAX_TOOLS)]
    mode: Literal["auto", "required"] | None = None
    """None: auto."""


ToolChoice = Literal["none", "auto", "required"] | FunctionChoice | CustomToolChoice | AllowedToolsChoice
