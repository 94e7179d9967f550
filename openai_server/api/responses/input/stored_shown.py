"""Items of tools that this server doesn't have and that the model reads, in the form in which they are stored, as
Structs. PURE.

Requests accept any value in these items. The keys and values here are those that the `openai` package's types allow.
"""

from typing import Any, Literal

from msgspec import Struct

State = Literal["in_progress", "completed", "incomplete"]


class Nested(Struct, forbid_unknown_fields=True):
    """An object inside an item. It is stored as it is, so unknown keys are refused."""


class CallerDirect(Nested, tag_field="type", tag="direct"):
    pass


class CallerProgram(Nested, tag_field="type", tag="program"):
    caller_id: str


Caller = CallerDirect | CallerProgram


class StoredTool(Struct):
    """The keys of one type of item, without its `id`. None is the same as an absent key."""


class McpProtocolError(Nested, tag_field="type", tag="mcp_protocol_error"):
    code: int
    message: str


class McpToolExecutionError(Nested, tag_field="type", tag="mcp_tool_execution_error"):
    content: Any


class McpHttpError(Nested, tag_field="type", tag="http_error"):
    code: int
    message: str


class McpCall(StoredTool, tag_field="type", tag="mcp_call"):
    arguments: str
    name: str
    server_label: str
    approval_request_id: str | None = None
    error: McpProtocolError | McpToolExecutionError | McpHttpError | None = None
    output: str | None = None
    status: State | Literal["calling", "failed"] | None = None


class FileSearchResult(Nested):
    attributes: dict[str, str | float | bool] | None = None
    file_id: str | None = None
    filename: str | None = None
    score: float | None = None
    text: str | None = None


class FileSearchCall(StoredTool, tag_field="type", tag="file_search_call"):
    queries: list[str]
    results: list[FileSearchResult] | None = None
    status: State | Literal["searching", "failed"] = "completed"


class Logs(Nested, tag_field="type", tag="logs"):
    logs: str


class Image(Nested, tag_field="type", tag="image"):
    url: str


class CodeInterpreterCall(StoredTool, tag_field="type", tag="code_interpreter_call"):
    container_id: str
    code: str | None = None
    outputs: list[Logs | Image] | None = None
    status: State | Literal["interpreting", "failed"] = "completed"


class LocalShellAction(Nested, tag_field="type", tag="exec"):
    command: list[str]
    env: dict[str, str]
    timeout_ms: int | None = None
    user: str | None = None
    working_directory: str | None = None


class LocalShellCall(StoredTool, tag_field="type", tag="local_shell_call"):
    call_id: str
    action: LocalShellAction
    status: State = "completed"


class LocalShellCallOutput(StoredTool, tag_field="type", tag="local_shell_call_output"):
    """Its `id` is the `call_id` of the call."""

    output: str
    status: State | None = None


class ShellAction(Nested):
    commands: list[str]
    max_output_length: int | None = None
    timeout_ms: int | None = None


class LocalEnvironment(Nested, tag_field="type", tag="local"):
    pass


class ContainerReference(Nested, tag_field="type", tag="container_reference"):
    container_id: str


class ShellCall(StoredTool, tag_field="type", tag="shell_call"):
    call_id: str
    action: ShellAction
    environment: LocalEnvironment | ContainerReference | None = None
    status: State = "completed"
    caller: Caller | None = None
    created_by: str | None = None


class Timeout(Nested, tag_field="type", tag="timeout"):
    pass


class Exit(Nested, tag_field="type", tag="exit"):
    exit_code: int


class ShellOutput(Nested):
    outcome: Timeout | Exit
    stderr: str
    stdout: str
    created_by: str | None = None


class ShellCallOutput(StoredTool, tag_field="type", tag="shell_call_output"):
    call_id: str
    output: list[ShellOutput]
    max_output_length: int | None = None
    status: State = "completed"
    caller: Caller | None = None
    created_by: str | None = None


class CreateFile(Nested, tag_field="type", tag="create_file"):
    path: str
    diff: str


class UpdateFile(Nested, tag_field="type", tag="update_file"):
    path: str
    diff: str


class DeleteFile(Nested, tag_field="type", tag="delete_file"):
    path: str


class ApplyPatchCall(StoredTool, tag_field="type", tag="apply_patch_call"):
    call_id: str
    operation: CreateFile | UpdateFile | DeleteFile
    status: Literal["in_progress", "completed"] = "completed"
    caller: Caller | None = None
    created_by: str | None = None


class ApplyPatchCallOutput(StoredTool, tag_field="type", tag="apply_patch_call_output"):
    call_id: str
    status: Literal["completed", "failed"]
    """Has no default: the model reads it if there is no output."""
    output: str | None = None
    caller: Caller | None = None
    created_by: str | None = None


class Program(StoredTool, tag_field="type", tag="program"):
    call_id: str
    code: str
    fingerprint: str


class ProgramOutput(StoredTool, tag_field="type", tag="program_output"):
    call_id: str
    result: str
    status: Literal["completed", "incomplete"] = "completed"


StoredShown = (
    McpCall
    | FileSearchCall
    | CodeInterpreterCall
    | LocalShellCall
    | LocalShellCallOutput
    | ShellCall
    | ShellCallOutput
    | ApplyPatchCall
    | ApplyPatchCallOutput
    | Program
    | ProgramOutput
)
"""The stored forms of ShownInput."""
