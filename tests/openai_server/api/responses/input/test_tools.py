"""Tools of a request, and which of them the answer may call."""

import re
from typing import Any

import pytest

from openai_server.api.responses.input.toolbox import flat_name
from openai_server.api.responses.settings import CalledTool
from openai_server.core.tools import CustomFormat, FunctionDefinition, Tool, ToolUse, custom_tool
from openai_server.parsing.choice_reader import AnswerFormat
from tests.openai_server.api.responses.bodies import Json, function, namespace, parsed, rejection

PARAMETERS = {"type": "object", "properties": {}}
PATCH = {"type": "custom", "name": "patch", "description": "Edits files."}
LARK = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
HOSTED: list[Json] = [
    {"type": "web_search", "external_web_access": True},
    {"type": "web_search_2025_08_26"},
    {"type": "web_search_preview"},
    {"type": "web_search_preview_2025_03_11"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "mcp", "server_label": "a", "authorization": "secret", "tools_of_tomorrow": 1},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation"},
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "apply_patch"},
    {"type": "computer"},
    {"type": "computer_use_preview"},
    {"type": "tool_search", "execution": "client"},
    {"type": "programmatic_tool_calling"},
]


def use(*tools: Json, **body: Any) -> ToolUse:
    found = parsed(tools=tools, **body).turn.tool_use
    assert found is not None
    return found


def names(found: ToolUse | None) -> list[str]:
    return [tool.name for tool in found.tools] if found else []


def best_effort(*definition: Any, **fields: Any) -> Tool:
    return Tool(FunctionDefinition(*definition, **fields), enforcement="best_effort")


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (function(), best_effort("f", None, PARAMETERS)),
        (function(strict=None), best_effort("f", None, PARAMETERS)),
        (function(strict=True), Tool(FunctionDefinition("f", None, PARAMETERS, strict=True))),
        (function(strict=False), best_effort("f", None, PARAMETERS, strict=False)),
        (function(parameters=None, description="d"), best_effort("f", "d")),
        (
            function(
                defer_loading=True, output_schema={"type": "object"}, allowed_callers=["direct"], **{"async": True}
            ),
            best_effort("f", None, PARAMETERS),
        ),
        (PATCH, custom_tool("patch", "Edits files.")),
        ({**PATCH, "format": {"type": "text"}}, custom_tool("patch", "Edits files.")),
        ({**PATCH, "format": LARK}, custom_tool("patch", "Edits files.", CustomFormat("lark", 'start: "a"'))),
        (
            {**PATCH, "format": {**LARK, "syntax": "regex", "definition": "a+"}},
            custom_tool("patch", "Edits files.", CustomFormat("regex", "a+")),
        ),
    ],
)
def test_a_tool_becomes_one_of_the_turn(tool: Json, expected: Tool) -> None:
    assert list(use(tool).tools) == [expected]


def test_a_tool_that_only_programs_may_call_is_left_out() -> None:
    turn = parsed(tools=[function(allowed_callers=["programmatic"])]).turn
    assert turn.tool_use is None
    assert not turn.tools


@pytest.mark.parametrize("tool", HOSTED, ids=lambda tool: tool["type"])
def test_a_hosted_tool_is_tolerated_until_it_is_demanded(tool: Json) -> None:
    assert names(use(function(), tool)) == ["f"]
    assert parsed(tools=[tool]).turn.tool_use is None
    assert parsed(tools=[tool], tool_choice="none").turn.tool_use is None
    assert parsed(tools=[function(), tool]).settings.tools == parsed(tools=[function()]).settings.tools
    assert tool["type"] in rejection("tool_choice", tools=[tool], tool_choice={"type": tool["type"]}).message
    assert tool["type"] in rejection("tool_choice", tools=[tool], tool_choice="required").message
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [tool]}
    assert tool["type"] in rejection("tool_choice.tools", tools=[tool], tool_choice=allowed).message


# ---- Namespaces


def test_a_namespace_has_flat_names() -> None:
    request = parsed(tools=[function("find"), namespace("crm", function("find"), PATCH, description="The CRM.")])
    assert names(request.turn.tool_use) == ["find", "crm__find", "crm__patch"]
    assert request.tools == {
        "find": CalledTool("function", "find"),
        "crm__find": CalledTool("function", "find", "crm"),
        "crm__patch": CalledTool("custom", "patch", "crm"),
    }
    descriptions = [tool.function.description for tool in request.turn.tools]
    assert descriptions == [None, "Tools in 'crm': The CRM.", "Edits files."]
    assert [request.turn.tool_field(i) for i in range(2)] == ["tools[0].parameters", "tools[1].tools[0].parameters"]
    assert request.turn.tools[2].custom is not None
    assert request.turn.tool_field(2) == "tools[1].tools[1].format.definition"


def test_flat_names_are_unique_and_allowed() -> None:
    tools = [
        function("a__b"),
        namespace("a", function("b"), function("b." + "c" * 60), function("b_" + "c" * 60)),
        namespace("a__b", function("c")),
        namespace("a.b", function("c")),
        namespace("a_", function("b")),
        namespace("n" * 64, function("m" * 64), function("m" * 63)),
    ]
    request = parsed(tools=tools)
    flat = names(request.turn.tool_use)
    assert flat[0] == "a__b"
    assert len(set(flat)) == len(flat) == 9
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in flat)
    assert [request.tools[name].namespace for name in flat[1:4]] == ["a"] * 3
    assert names(parsed(tools=tools).turn.tool_use) == flat  # so a growing conversation keeps its prefix


def test_a_flat_name_depends_on_the_whole_name() -> None:
    long = "n" * 64
    assert flat_name(long, "a", ()) != flat_name(long, "b", ())


# ---- Choice

F, G, FIND = function("f"), function("g"), namespace("crm", function("find"), function("list"))


@pytest.mark.parametrize(
    ("choice", "expected", "must_call", "name"),
    [
        (None, ["f", "g", "crm__find", "crm__list", "patch"], False, None),
        ("auto", ["f", "g", "crm__find", "crm__list", "patch"], False, None),
        ("required", ["f", "g", "crm__find", "crm__list", "patch"], True, None),
        ({"type": "function", "name": "g"}, ["f", "g", "crm__find", "crm__list", "patch"], True, "g"),
        ({"type": "function", "name": "find"}, ["f", "g", "crm__find", "crm__list", "patch"], True, "crm__find"),
        (
            {"type": "function", "name": "find", "namespace": "crm"},
            ["f", "g", "crm__find", "crm__list", "patch"],
            True,
            "crm__find",
        ),
        ({"type": "custom", "name": "patch"}, ["f", "g", "crm__find", "crm__list", "patch"], True, "patch"),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}, ["g"], False, None),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "patch"}]},
            ["patch"],
            True,
            None,
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "namespace", "name": "crm"}, {"type": "mcp", "server_label": "a"}],
            },
            ["crm__find", "crm__list"],
            False,
            None,
        ),
        ({"type": "allowed_tools", "tools": [{"type": "web_search"}]}, [], False, None),
        ("none", [], False, None),
    ],
)
def test_tool_choice(choice: Any, expected: list[str], must_call: bool, name: str | None) -> None:
    request = parsed(tools=[F, G, FIND, PATCH, {"type": "web_search"}], tool_choice=choice)
    found = request.turn.tool_use
    assert names(found) == expected
    assert len(request.turn.tools) == 5  # all tools remain known
    if found is not None:
        assert (found.must_call, found.function_name, found.legacy) == (must_call, name, False)
    echoed = choice or "auto"
    assert request.settings.tool_choice == (
        echoed if isinstance(echoed, str) or echoed["type"] != "allowed_tools" else {"mode": "auto", **allowed(echoed)}
    )


def allowed(choice: dict[str, Any]) -> dict[str, Any]:
    return {**choice, "tools": [{k: v for k, v in t.items() if k in ("type", "name")} for t in choice["tools"]]}


def test_parallel_calls() -> None:
    assert use(F).parallel
    assert not use(F, parallel_tool_calls=False).parallel
    assert not use(F, tool_choice={"type": "function", "name": "f"}).parallel


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("tools[1]", {"tools": [F, F]}),
        ("tools[1]", {"tools": [F, {**PATCH, "name": "f"}]}),
        ("tools[0].tools[1]", {"tools": [namespace("n", F, F)]}),
        ("tools[0].type", {"tools": [{"type": "x"}]}),
        ("tools[0].type", {"tools": [{"name": "f"}]}),
        ("tools[0].name", {"tools": [{"type": "function"}]}),
        ("tools[0].name", {"tools": [function("a b")]}),
        ("tools[0].name", {"tools": [function("a" * 65)]}),
        ("tools[0].function", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("tools[0].foo", {"tools": [function(foo=1)]}),
        ("tools[0].format.syntax", {"tools": [{**PATCH, "format": {**LARK, "syntax": "gbnf"}}]}),
        ("tools[0].format.definition", {"tools": [{**PATCH, "format": {**LARK, "definition": ""}}]}),
        ("tools[0].tools[0].type", {"tools": [namespace("n", {"type": "web_search"})]}),
        ("tools", {"tools": [function(f"f{i}") for i in range(513)]}),
        ("tools", {"tools": [namespace(n, *(function(f"f{i}") for i in range(300))) for n in ("a", "b")]}),
        ("tools", {"tools": [function(parameters={"enum": [0] * 70_000})]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": [F], "tool_choice": "f"}),
        ("tool_choice", {"tools": [F], "tool_choice": {"type": "function", "name": "g"}}),
        ("tool_choice", {"tools": [F], "tool_choice": {"type": "custom", "name": "f"}}),
        ("tool_choice", {"tools": [F], "tool_choice": {"type": "function", "name": "f", "namespace": "n"}}),
        (
            "tool_choice",
            {"tools": [namespace("a", F), namespace("b", F)], "tool_choice": {"type": "function", "name": "f"}},
        ),
        ("tool_choice.name", {"tools": [F], "tool_choice": {"type": "function"}}),
        ("tool_choice.tools", {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}}),
        (
            "tool_choice.tools",
            {"tools": [F], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "shell"}]}},
        ),
        (
            "tool_choice.tools[0]",
            {"tools": [F], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}},
        ),
        ("tool_choice.tools[0].type", {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "x"}]}}),
        ("tool_choice.tools[0].name", {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function"}]}}),
        ("grammar", {"tools": [F], "grammar": 'root ::= "a"'}),
    ],
)
def test_invalid_tools_are_refused(param: str, body: dict[str, Any]) -> None:
    rejection(param, **body)


def test_the_response_reports_which_tools_were_strict() -> None:
    request = parsed(tools=[F, PATCH, namespace("n", function("f"), function("g"), function("h", strict=True))])
    format = AnswerFormat(lambda: None, lambda: "call_1", strict_tools=frozenset({"f", "n__g"}))  # type: ignore[arg-type, return-value]
    reported = request.settings_for(format).tools
    assert [tool.get("strict") for tool in reported] == [True, None, None]
    assert [tool["strict"] for tool in reported[2]["tools"]] == [False, True, True]
    assert request.settings_for(None) == request.settings


def test_the_response_repeats_the_tools() -> None:
    tools = [F | {"strict": True}, {**PATCH, "format": None}, namespace("n", function("g", strict=False))]
    assert parsed(tools=tools).settings.tools == [
        {"type": "function", "name": "f", "description": None, "parameters": PARAMETERS, "strict": True},
        {**PATCH, "format": {"type": "text"}},
        {
            "type": "namespace",
            "name": "n",
            "description": "Tools.",
            "tools": [
                {"type": "function", "name": "g", "description": None, "parameters": PARAMETERS, "strict": False}
            ],
        },
    ]
