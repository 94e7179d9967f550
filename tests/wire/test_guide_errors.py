"""An error in a grammar built from several fields names the field and the function, and shows nothing of the
grammar."""

from typing import Any

import pytest

from tests.wire.fake_worker import FakeWorker, Refusal, inputs_of, refuses, streams
from tests.wire.sidecar import running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

GOOD = {"name": "good", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
BAD = {"name": "bad", "parameters": {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}}
TOOLS = [{"type": "function", "function": function} for function in (GOOD, BAD)]
BAD_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "bad"}}
ONLY_BAD = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [BAD_TOOL]}}
GUIDED = {"tools": TOOLS, "regex": "("}

CASES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "a tool": ({"tools": TOOLS, "tool_choice": "required"}, "function bad", "tools[1].function.parameters", "bad"),
    "the only one": ({"tools": TOOLS, "tool_choice": ONLY_BAD}, "function bad", "tools[1].function.parameters", "bad"),
    "a function": (
        {"functions": [GOOD, BAD], "function_call": {"name": "bad"}},
        "function bad",
        "functions[1].parameters",
        "bad",
    ),
    "a regex beside tools": (GUIDED, "guide", "regex", ""),
    "a tool beside a regex": (GUIDED, "function good", "tools[0].function.parameters", "good"),
    "a format beside tools": (
        {"tools": TOOLS, "response_format": {"type": "json_object"}},
        "guide",
        "response_format",
        "",
    ),
    "texts beside tools": ({"tools": TOOLS, "guided_choice": ["a"]}, "guide", "guided_choice", ""),
    "Lark beside tools": (
        {"tools": TOOLS, "structured_outputs": {"grammar": "start: ("}},
        "guide",
        "structured_outputs.grammar",
        "",
    ),
    "Lark alone": ({"ebnf": "start: ("}, "", "ebnf", ""),
    "whitespace": ({"guided_json": {}, "guided_whitespace_pattern": " "}, "guide", "guided_json", ""),
    "an unknown part": ({"tools": TOOLS, "tool_choice": "required"}, "function other", "tools", ""),
    "no part": ({"functions": [GOOD], "function_call": {"name": "good"}}, "", "functions", ""),
}


@pytest.mark.parametrize(("fields", "part", "param", "function"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_error_names_the_field_of_the_grammars_part(
    fields: dict[str, Any], part: str, param: str, function: str, stream: bool
) -> None:
    message = 'tensor \'lark\': unclosed group\n   3 | r0: %json {}\n   4 | r1: %json {"pattern": "("}\n           ^'
    refusal = Refusal("INVALID_ARGUMENT", message, tensor="lark", error_part=part)
    worker = FakeWorker(refuses(refusal), streams(fails=refusal))
    async with running(worker) as sidecar:
        reply = await sidecar.chat(stream=stream, **fields)
    assert (reply.status, reply.error["param"]) == (400, param)
    of_function = f" of the function '{function}'" if function else ""
    assert reply.error["message"] == f"'{param}'{of_function}: unclosed group"
    if function:
        assert f"// part: {part}\n" in inputs_of(worker.requests[0])["lark"][0].decode()
