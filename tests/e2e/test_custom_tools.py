"""Custom tools, tools that may not be called, and repeated calls, with real models."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from llguidance import LLMatcher
from openai import BadRequestError, OpenAI

from tests.e2e import servers
from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair
from tests.openai_server.parsing.grammars import accepted, refused_at
from tests.openai_server.parsing.lark.test_nested import APPLY_PATCH
from tests.templates import template_paths

RAW = "Qwen3-Coder"
"""A template in whose format arguments are raw text between tags."""
MESSAGES: list[Any] = [{"role": "user", "content": "Write a file that prints hello."}]
NOTE = r"""
start: "# " TITLE "\n" line{1,3} "END"
line: "- " /[^\n]{0,12}/ "\n"
TITLE: /[A-Za-z"\\]{1,8}/
"""
NESTED = r"""
start: "(" item{1,2} ")"
item: WORD | "(" item? ")"
WORD: /[a-z]{1,4}/
"""
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}


def custom(name: str, syntax: str = "", definition: str = "") -> dict[str, Any]:
    format = (
        {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}} if syntax else {"type": "text"}
    )
    return {"type": "custom", "custom": {"name": name, "format": format}}


@pytest.fixture(scope="module")
def json_client(pair: Pair) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def raw_client(worker_address: str) -> Iterator[OpenAI]:
    template = str(template_paths()[RAW])
    with (
        servers.sidecar(worker_address, "--chat-template", template) as (_, url),
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.fixture(params=["json_client", "raw_client"])
def client(request: pytest.FixtureRequest) -> OpenAI:
    """A client of a model that writes arguments as JSON, and of one that writes them between tags."""
    result: OpenAI = request.getfixturevalue(request.param)
    return result


def call(client: OpenAI, *, stream: bool, **body: Any) -> tuple[list[tuple[str, str, str]], str | None, str]:
    """Returns the calls as (kind, name, text), the finish reason and the content."""
    body = {"model": SMOLLM2, "messages": MESSAGES, "max_tokens": 200, "temperature": 1.0, **body}
    if not stream:
        (choice,) = client.chat.completions.create(**body).choices
        calls = []
        for tool_call in choice.message.tool_calls or ():
            if tool_call.type == "custom":
                calls.append(("custom", tool_call.custom.name, tool_call.custom.input))
            else:
                calls.append(("function", tool_call.function.name, tool_call.function.arguments))
        return calls, choice.finish_reason, choice.message.content or ""
    pieces: list[list[str]] = []
    reason, content = None, ""
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for part in choice.delta.model_dump().get("tool_calls") or ():
                value = part.get("custom") or part["function"]
                if part["id"]:
                    pieces.append([part["type"], value["name"], ""])
                pieces[part["index"]][2] += value["input"] if "input" in value else value["arguments"]
    return [(kind, name, text) for kind, name, text in pieces], reason, content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("definition", [NOTE, NESTED])
def test_a_required_input_matches_its_grammar(client: OpenAI, definition: str, stream: bool) -> None:
    for seed in range(2):
        choice = {"type": "custom", "custom": {"name": "note"}}
        tools = [FUNCTION, custom("note", "lark", definition)]
        calls, reason, content = call(client, stream=stream, tools=tools, tool_choice=choice, seed=seed)
        ((kind, name, text),) = calls
        assert (kind, name, content, reason) == ("custom", "note", "", "stop")
        assert accepted(str(LLMatcher.grammar_from_lark(definition)), text), text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("regex", [r"\d{4}-\d{2}-\d{2}", r"[A-Z][a-z\"\\]{1,8}\n[^\n]{0,5}\."])
def test_a_required_input_matches_its_expression(client: OpenAI, regex: str, stream: bool) -> None:
    tools = [FUNCTION, custom("date", "regex", regex)]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{**tools[1]}]}}
    choice["allowed_tools"]["tools"] = [{"type": "custom", "custom": {"name": "date"}}]  # type: ignore[index]
    calls, reason, _ = call(client, stream=stream, tools=tools, tool_choice=choice, parallel_tool_calls=False)
    ((kind, name, text),) = calls
    assert (kind, name, reason) == ("custom", "date", "tool_calls")
    assert re.fullmatch(regex, text), text  # `\d` is any digit of Unicode, as in Rust, which OpenAI uses too


@pytest.mark.parametrize("stream", [False, True])
def test_a_patch_begins_like_its_grammar(client: OpenAI, stream: bool) -> None:
    tools = [custom("apply_patch", "lark", APPLY_PATCH)]
    calls, _, content = call(
        client, stream=stream, tools=tools, tool_choice="required", max_tokens=150, model=GEMMA3, seed=1
    )
    assert content == ""
    assert calls
    begin = "*** Begin Patch\n*** "
    for k, (kind, name, text) in enumerate(calls):
        assert (kind, name) == ("custom", "apply_patch")
        is_cut_off = 0 < k == len(calls) - 1 and begin.startswith(text)  # by the limit of tokens
        assert text.startswith(begin) or is_cut_off
        assert refused_at(str(LLMatcher.grammar_from_lark(APPLY_PATCH)), text) is None


@pytest.mark.parametrize("stream", [False, True])
def test_tools_with_grammars_leave_other_answers_free(client: OpenAI, stream: bool) -> None:
    tools = [FUNCTION, custom("apply_patch", "lark", APPLY_PATCH), custom("write")]
    calls, _, content = call(client, stream=stream, tools=tools, max_tokens=60)
    assert calls or content
    grammar = str(LLMatcher.grammar_from_lark(APPLY_PATCH))
    for _, name, text in calls:
        assert name in ("get_weather", "apply_patch", "write")
        assert name != "apply_patch" or refused_at(grammar, text) is None


@pytest.mark.parametrize("stream", [False, True])
def test_only_allowed_tools_are_called(client: OpenAI, stream: bool) -> None:
    tools = [FUNCTION, NOW, custom("write")]
    named = {"type": "function", "function": {"name": "get_time"}}
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}}
        calls, _, _ = call(client, stream=stream, tools=tools, tool_choice=choice, max_tokens=60)
        assert {name for _, name, _ in calls} <= {"get_time"}
        assert calls or mode == "auto"
    calls, reason, content = call(client, stream=stream, tools=tools, tool_choice="none", max_tokens=40)
    assert (calls, bool(content)) == ([], True)
    assert reason in ("stop", "length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [0, 1])
def test_no_call_is_repeated_at_once(client: OpenAI, stream: bool, temperature: float) -> None:
    calls, reason, _ = call(
        client, stream=stream, tools=[NOW], tool_choice="required", max_tokens=1000, temperature=temperature
    )
    assert reason == "tool_calls"
    assert calls
    assert all(first != second for first, second in itertools.pairwise(calls))
    assert len(calls) == 1  # without arguments, a second call repeats the first


@pytest.mark.parametrize(
    ("syntax", "definition"),
    [
        ("lark", "start: /a{3,2}/"),
        ("regex", "a{3,2}"),
        ("lark", "start: <|im_end|>"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_definition_is_refused_by_its_field(client: OpenAI, syntax: str, definition: str, stream: bool) -> None:
    with pytest.raises(BadRequestError) as caught:
        call(client, stream=stream, tools=[FUNCTION, custom("bad", syntax, definition)])
    assert caught.value.param == "tools[1].custom.format.grammar.definition", caught.value
