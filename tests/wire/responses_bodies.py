"""Bodies of `/v1/responses` with every object that it takes."""

from typing import Any

from openai_server.api.responses.input import items, tools

SCHEMA = {"type": "object", "default": None}
FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": False}
GRAMMAR = {"type": "grammar", "syntax": "regex", "definition": "a+"}
TOOLS: list[dict[str, Any]] = [
    FUNCTION,
    {"type": "custom", "name": "c", "description": "d", "format": {"type": "text"}},
    {"type": "custom", "name": "g", "format": GRAMMAR},
    {"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION]},
    *({"type": str(kind.__struct_config__.tag)} for kind in tools.HostedTool.__subclasses__()),
]
PARTS = [{"type": kind, "text": "x"} for kind in ("text", "input_text", "output_text")]
REASONING = [{"type": kind, "text": "x"} for kind in ("summary_text", "reasoning_text")]
MESSAGE = {"role": "user", "content": "x"}
ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "developer", "content": "x"},
    {"role": "user", "content": [*PARTS, {"type": "input_file", "file_data": "YQ==", "filename": "a.txt"}]},
    {"type": "reasoning", "id": "rs_1", "summary": REASONING[:1], "content": REASONING[1:]},
    {"type": "message", "role": "assistant", "content": [*PARTS[2:], {"type": "refusal", "refusal": "x"}]},
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
    {"type": "custom_tool_call", "call_id": "2", "name": "c", "input": "x"},
    {"type": "function_call_output", "call_id": "1", "output": PARTS[1:2]},
    {"type": "custom_tool_call_output", "call_id": "2", "output": "x"},
    {"type": "additional_tools", "role": "developer", "tools": [{**FUNCTION, "name": "more"}]},
    {"type": "tool_search_output", "tools": [{**FUNCTION, "name": "found"}]},
    {"type": "configuration_update", "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}},
    MESSAGE,
]
OTHER_ITEMS = [
    {"type": str(kind.__struct_config__.tag)} for kind in (*items.ShownInput.__args__, *items.SkippedInput.__args__)
]
"""Items of tools that this server doesn't have."""
CHOICES = [
    {"type": "function", "name": "f"},
    {"type": "custom", "name": "c"},
    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
]
FORMATS: list[dict[str, Any]] = [
    {"type": "json_object", "schema": SCHEMA},
    {"type": "json_schema", "name": "s", "schema": {"type": "object"}},
]
BODIES: list[dict[str, Any]] = [
    {"input": ITEMS, "tools": TOOLS},
    {"input": [MESSAGE, *OTHER_ITEMS, MESSAGE]},
    *({"input": "x", "tools": TOOLS[:2], "tool_choice": choice} for choice in CHOICES),
    *({"input": "x", "text": {"format": format}} for format in FORMATS),
    {"input": "x", "structured_outputs": {"regex": "a"}},
    {
        "input": "x",
        "instructions": "x",
        "stream": True,
        "stream_options": {},
        "reasoning": {"effort": "low"},
        "text": {"verbosity": "low"},
        "metadata": {"a": "b"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "logit_bias": {"5": 1},
        "chat_template_kwargs": {"enable_thinking": None},
    },
]
