"""Input items of all types of the `openai` package, and checks of their stored form."""

import json
from typing import Any

from openai.types.conversations import ConversationItem
from openai.types.responses import ResponseItem
from pydantic import BaseModel, TypeAdapter

from openai_server.store.records import Item

Json = dict[str, Any]

LISTED: TypeAdapter[Any] = TypeAdapter(ResponseItem)
IN_CONVERSATION: TypeAdapter[Any] = TypeAdapter(ConversationItem)
CUSTOM = ("custom_tool_call", "custom_tool_call_output")
"""Types of items that OpenAI returns with a status in both lists, although the type of a conversation's lacks it."""


def checked(item: Item) -> Json:
    """The item as JSON, whose keys and values must be those of the `openai` package's types."""
    decoded: Json = json.loads(item.body)
    assert decoded["id"] == item.id
    for adapter in (LISTED, IN_CONVERSATION):
        typed = adapter.validate_json(item.body, strict=True)
        extra = unknown(typed, "")
        if adapter is IN_CONVERSATION and decoded["type"] in CUSTOM:
            extra -= {".status"}
        assert not extra, decoded
    assert "null" not in [json.dumps(value) for value in decoded.values()]
    return decoded


def unknown(value: object, path: str) -> set[str]:
    """The paths of the keys, at any depth, that the types don't have."""
    if isinstance(value, BaseModel):
        fields = [unknown(getattr(value, name), f"{path}.{name}") for name in type(value).model_fields]
        return {f"{path}.{name}" for name in value.model_extra or ()}.union(*fields)
    return set().union(*(unknown(item, path) for item in value)) if isinstance(value, list) else set()


TOOL: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "defer_loading": True}
NAMESPACE: Json = {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "custom", "name": "c"}]}
ANNOTATIONS: list[Json] = [
    {"type": "file_citation", "file_id": "f", "filename": "n", "index": 0},
    {"type": "url_citation", "start_index": 0, "end_index": 1, "title": "t", "url": "u"},
    {"type": "container_file_citation", "container_id": "c", "file_id": "f", "filename": "n", "start_index": 0}
    | {"end_index": 1},
    {"type": "file_path", "file_id": "f", "index": 0},
]
TOKEN: Json = {"token": "a", "bytes": [97], "logprob": -0.5}
CALLER: Json = {"type": "program", "caller_id": "p"}
CHECK: Json = {"id": "s", "code": "c", "message": "m"}
ACTIONS: list[Json] = [
    {"type": "click", "button": "left", "x": 1, "y": 2, "keys": ["CTRL"]},
    {"type": "double_click", "x": 1, "y": 2, "keys": None},
    {"type": "drag", "path": [{"x": 1, "y": 2}]},
    {"type": "keypress", "keys": ["a"]},
    {"type": "move", "x": 1, "y": 2},
    {"type": "screenshot"},
    {"type": "scroll", "scroll_x": 0, "scroll_y": 1, "x": 1, "y": 2},
    {"type": "type", "text": "a"},
    {"type": "wait"},
]
PATCHES: list[Json] = [
    {"type": "create_file", "path": "a", "diff": "d"},
    {"type": "update_file", "path": "a", "diff": "d"},
    {"type": "delete_file", "path": "a"},
]
ITEMS: list[Json] = [
    {"role": "user", "content": "a"},
    {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "a"}], "status": "in_progress"},
    {"role": "developer", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    {
        "role": "user",
        "content": [{"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}],
    },
    {"role": "assistant", "content": "a", "phase": "commentary"},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "incomplete",
        "content": [
            {
                "type": "output_text",
                "text": "a",
                "annotations": ANNOTATIONS,
                "logprobs": [{**TOKEN, "top_logprobs": [TOKEN]}],
            },
            {"type": "refusal", "refusal": "no"},
        ],
    },
    {"type": "file_search_call", "id": "fs_1", "queries": ["a"], "status": "completed"},
    {
        "type": "file_search_call",
        "id": "fs_2",
        "queries": ["a"],
        "status": "searching",
        "results": [{"attributes": {"a": 1, "b": "c"}, "file_id": "f", "filename": "n", "score": 0.5, "text": "t"}],
    },
    {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "call_1",
        "pending_safety_checks": [CHECK],
        "status": "completed",
        "actions": ACTIONS,
    },
    *(
        {
            "type": "computer_call",
            "id": f"cu_{action['type']}",
            "call_id": "call_1",
            "pending_safety_checks": [],
            "status": "completed",
            "action": action,
        }
        for action in ACTIONS
    ),
    {
        "type": "computer_call_output",
        "call_id": "call_1",
        "output": {"type": "computer_screenshot", "image_url": "data:"},
        "acknowledged_safety_checks": [CHECK],
        "status": None,
    },
    *(
        {"type": "web_search_call", "id": f"ws_{action['type']}", "action": action, "status": "completed"}
        for action in (
            {"type": "search", "query": "a", "queries": ["a"], "sources": [{"type": "url", "url": "u"}]},
            {"type": "open_page", "url": "u"},
            {"type": "find_in_page", "pattern": "p", "url": "u"},
        )
    ),
    {"type": "function_call", "call_id": "call_2", "name": "f", "arguments": "{}"},
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_3",
        "name": "f",
        "arguments": "{",
        "namespace": "crm",
        "async": True,
        "caller": CALLER,
        "status": "completed",
    },
    {"type": "function_call_output", "call_id": "call_2", "output": "a", "name": "f", "namespace": "crm"},
    {
        "type": "function_call_output",
        "call_id": "call_3",
        "output": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        "caller": {"type": "direct"},
    },
    {"type": "tool_search_call", "arguments": {"a": 1}, "call_id": "call_4", "execution": "server"},
    {"type": "tool_search_output", "tools": [TOOL, NAMESPACE], "call_id": "call_4", "execution": "server"},
    {"type": "additional_tools", "role": "developer", "tools": [TOOL, {"type": "web_search"}, NAMESPACE]},
    {"type": "configuration_update", "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}},
    {
        "type": "configuration_update",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
    },
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}]},
    {
        "type": "reasoning",
        "id": "rs_2",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "t"}],
        "encrypted_content": "sealed",
        "status": "completed",
    },
    {"type": "compaction", "encrypted_content": "sealed"},
    {"type": "image_generation_call", "id": "ig_1", "result": "data", "status": "completed", "size": "1x1"},
    {
        "type": "image_generation_call",
        "id": "ig_2",
        "result": None,
        "status": "failed",
        "error": {"type": "t", "message": "m", "moderation_details": {"categories": [], "moderation_stage": "input"}},
    },
    {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "code": "1",
        "container_id": "c",
        "outputs": [{"type": "logs", "logs": "1"}, {"type": "image", "url": "u"}],
        "status": "completed",
    },
    {"type": "code_interpreter_call", "id": "ci_2", "code": None, "container_id": "c", "outputs": None}
    | {"status": "interpreting"},
    {
        "type": "local_shell_call",
        "id": "lsh_1",
        "call_id": "call_5",
        "status": "completed",
        "action": {"type": "exec", "command": ["ls"], "env": {"A": "b"}, "timeout_ms": 1, "user": None},
    },
    {"type": "local_shell_call_output", "id": "call_5", "output": "a", "status": None},
    {
        "type": "shell_call",
        "call_id": "call_6",
        "action": {"commands": ["ls"], "timeout_ms": 1, "max_output_length": None},
        "environment": {"type": "container_reference", "container_id": "c"},
    },
    {
        "type": "shell_call_output",
        "call_id": "call_6",
        "output": [
            {"outcome": {"type": "exit", "exit_code": 0}, "stdout": "a", "stderr": ""},
            {"outcome": {"type": "timeout"}, "stdout": "a", "stderr": ""},
        ],
        "max_output_length": 10,
    },
    *(
        {"type": "apply_patch_call", "call_id": "call_7", "operation": patch, "status": "completed", "caller": CALLER}
        for patch in PATCHES
    ),
    {"type": "apply_patch_call_output", "call_id": "call_7", "status": "failed", "output": "a"},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": [{"name": "t", "input_schema": {}}]},
    {"type": "mcp_approval_request", "id": "mcpr_1", "arguments": "{}", "name": "t", "server_label": "s"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True, "reason": "r"},
    {"type": "mcp_call", "id": "mcp_1", "arguments": "{}", "name": "t", "server_label": "s", "output": "o"},
    {
        "type": "mcp_call",
        "id": "mcp_2",
        "arguments": "{}",
        "name": "t",
        "server_label": "s",
        "error": {"type": "http_error", "code": 500, "message": "m"},
        "status": "failed",
    },
    {"type": "custom_tool_call", "call_id": "call_8", "name": "c", "input": "a", "namespace": "crm", "caller": CALLER},
    {"type": "custom_tool_call_output", "call_id": "call_8", "output": [{"type": "input_text", "text": "a"}]},
    {"type": "program", "id": "prog_1", "call_id": "call_9", "code": "1", "fingerprint": "f"},
    {"type": "program_output", "id": "progo_1", "call_id": "call_9", "result": "1", "status": "completed"},
]
"""At least one item of each type that is stored, all of them different."""
