"""Which tools a request allows or requires the model to call, over HTTP."""

from typing import Any

import pytest

from tests.wire.fake_worker import FakeWorker, inputs_of
from tests.wire.sidecar import running

F = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
TOOLS = [{"type": "function", "function": F}]
NAMED_F = {"type": "function", "function": {"name": "f"}}
NAMED_G = {"type": "function", "function": {"name": "g"}}


def allowed(mode: str, *tools: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "required without tools": ({"tool_choice": "required"}, "tool_choice"),
    "required, no tool": ({"tool_choice": "required", "tools": []}, "tool_choice"),
    "required, functions alone": ({"tool_choice": "required", "functions": [F]}, "tool_choice"),
    "a name without tools": ({"tool_choice": NAMED_F}, "tool_choice"),
    "a name, no tool": ({"tool_choice": NAMED_F, "tools": []}, "tool_choice"),
    "another name": ({"tool_choice": NAMED_G, "tools": TOOLS}, "tool_choice"),
    "none allowed, required": (
        {"tool_choice": allowed("required"), "tools": TOOLS},
        "tool_choice.allowed_tools.tools",
    ),
    "none allowed, required, without tools": ({"tool_choice": allowed("required")}, "tool_choice.allowed_tools.tools"),
    "none allowed, required, no tool": (
        {"tool_choice": allowed("required"), "tools": []},
        "tool_choice.allowed_tools.tools",
    ),
    "one allowed, no tool": ({"tool_choice": allowed("required", NAMED_F), "tools": []}, "tool_choice"),
    "another one allowed": ({"tool_choice": allowed("auto", NAMED_F, NAMED_G), "tools": TOOLS}, "tool_choice"),
    "an older name without functions": ({"function_call": {"name": "f"}}, "function_call"),
    "an older name, no function": ({"function_call": {"name": "f"}, "functions": []}, "function_call"),
    "an older name among tools": ({"function_call": {"name": "f"}, "tools": TOOLS}, "function_call"),
    "another older name": ({"function_call": {"name": "g"}, "functions": [F]}, "function_call"),
}


@pytest.mark.parametrize(("fields", "param"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_choice_that_no_call_can_satisfy_is_refused(
    fields: dict[str, Any], param: str, stream: bool
) -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.chat(stream=stream, **fields)
        rendered = await sidecar.send(
            "POST", "/apply-template", {"messages": [{"role": "user", "content": "x"}], **fields}
        )
    for refused in (reply, rendered):
        assert (refused.status, refused.error["param"]) == (400, param), refused.body


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": allowed("auto"), "tools": TOOLS},
        {"tool_choice": allowed("auto")},
        {"tool_choice": "auto", "tools": []},
        {"tool_choice": "none"},
        {"function_call": "auto", "functions": []},
        {"function_call": "none", "functions": [F]},
    ],
)
async def test_where_no_call_is_possible_the_prompt_contains_no_tools(fields: dict[str, Any]) -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        reply = await sidecar.chat(**fields)
        assert reply.status == 200, reply.body
        plain = await sidecar.chat()
    inputs, plain_inputs = map(inputs_of, worker.requests)
    # Where there are tools, a grammar makes their calls impossible.
    assert bool(inputs.pop("lark", None)) == bool(fields.get("tools") or fields.get("functions"))
    assert inputs == plain_inputs
    assert reply.json["choices"][0]["message"] == plain.json["choices"][0]["message"]


async def test_tools_and_functions_whose_grammar_is_too_long_are_refused() -> None:
    large = {**F, "parameters": {"properties": {f"p{i}": {"type": "string", "maxLength": 9} for i in range(12_000)}}}
    async with running(FakeWorker(), max_schema_bytes=0) as sidecar:
        tools = await sidecar.chat(tools=[{"type": "function", "function": large}], tool_choice="required")
        functions = await sidecar.chat(functions=[large], function_call={"name": "f"})
    assert (tools.status, tools.error["param"]) == (400, "tools")
    assert (functions.status, functions.error["param"]) == (400, "functions")
