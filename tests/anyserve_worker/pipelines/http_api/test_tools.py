"""Tool calls, images and conversations in the forms of the APIs that have them."""

import json
from typing import Any

import pytest

from anyserve_worker.pipelines.core.errors import InvalidInput, UpstreamFailed
from anyserve_worker.pipelines.http_api import load
from anyserve_worker.pipelines.http_api.mappings import read_api
from anyserve_worker.pipelines.upstream.settings import as_json
from tests.anyserve_worker.pipelines.answering import TOOLS, Summary, chat, collect, folder, running, summary
from tests.anyserve_worker.pipelines.http_api.exchange import lines, named, sse
from tests.anyserve_worker.pipelines.http_api.hosted_apis import gemini
from tests.anyserve_worker.pipelines.scripted_server import scripted_server

PARAMETERS = TOOLS[0]["function"]["parameters"]  # type: ignore[index]
PNG = "data:image/png;base64,aGk="
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+2, 3+4?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": [1, 2]}'}},
            {"id": "c2", "type": "function", "function": {"name": "add", "arguments": ""}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "7"}]},
    {"role": "user", "content": "Thanks"},
    {"role": "developer", "content": "In German."},
]


def body_of(name: str, **fields: Any) -> dict[str, Any]:
    _, body, _ = read_api(name, None, {}).requests.write(chat(**fields), "m")
    return body


def tool_use(id: str, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "add", "input": arguments}


def function_call(id: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "add", "arguments": arguments}}


CONVERSATIONS: dict[str, dict[str, Any]] = {
    "ollama": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1+2, 3+4?"},
            {
                "role": "assistant",
                "tool_calls": [
                    {"function": {"name": "add", "arguments": {"x": [1, 2]}}},
                    {"function": {"name": "add", "arguments": {}}},
                ],
            },
            {"role": "tool", "content": "3", "tool_name": "add"},
            {"role": "tool", "content": "7", "tool_name": "add"},
            {"role": "user", "content": "Thanks"},
            {"role": "system", "content": "In German."},
        ],
        "tools": TOOLS,
    },
    "cohere_v2": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "text": "1+2, 3+4?"}]},
            {
                "role": "assistant",
                "tool_calls": [function_call("c1", '{"x": [1, 2]}'), function_call("c2", "{}")],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "tool", "tool_call_id": "c2", "content": "7"},
            {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
            {"role": "system", "content": [{"type": "text", "text": "In German."}]},
        ],
        "tools": TOOLS,
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "Be brief.\n\nIn German."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "1+2, 3+4?"}]},
            {
                "role": "model",
                "parts": [
                    {"functionCall": {"name": "add", "args": {"x": [1, 2]}}},
                    {"functionCall": {"name": "add", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "add", "response": {"result": "3"}}},
                    {"functionResponse": {"name": "add", "response": {"result": "7"}}},
                    {"text": "Thanks"},
                ],
            },
        ],
        "tools": [
            {"functionDeclarations": [{"name": "add", "description": "Adds.", "parametersJsonSchema": PARAMETERS}]}
        ],
    },
    "anthropic": {
        "system": "Be brief.\n\nIn German.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "1+2, 3+4?"}]},
            {"role": "assistant", "content": [tool_use("c1", {"x": [1, 2]}), tool_use("c2", {})]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "3"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "7"},
                    {"type": "text", "text": "Thanks"},
                ],
            },
        ],
        "tools": [{"name": "add", "description": "Adds.", "input_schema": PARAMETERS}],
    },
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_with_tools(name: str) -> None:
    body = body_of(name, messages=CONVERSATION, tools=TOOLS)
    expected = CONVERSATIONS[name]
    assert {key: body.get(key) for key in expected} == expected


CHOICES: list[tuple[str, Any, str, Any]] = [
    ("gemini", "auto", "toolConfig", {"functionCallingConfig": {"mode": "AUTO"}}),
    ("gemini", "required", "toolConfig", {"functionCallingConfig": {"mode": "ANY"}}),
    (
        *("gemini", {"type": "function", "function": {"name": "add"}}, "toolConfig"),
        {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["add"]}},
    ),
    ("anthropic", "auto", "tool_choice", {"type": "auto"}),
    ("anthropic", "required", "tool_choice", {"type": "any"}),
    ("anthropic", {"type": "function", "function": {"name": "add"}}, "tool_choice", {"type": "tool", "name": "add"}),
    ("cohere_v2", "required", "tool_choice", "REQUIRED"),
    ("cohere_v2", "auto", "tool_choice", None),
    ("ollama", "auto", "tool_choice", None),
    ("anthropic", "none", "tools", None),
    ("anthropic", "none", "tool_choice", None),
    ("ollama", "none", "tools", None),
]


@pytest.mark.parametrize(("name", "choice", "key", "value"), CHOICES)
def test_choices_of_tools(name: str, choice: Any, key: str, value: Any) -> None:
    assert body_of(name, tools=TOOLS, tool_choice=choice).get(key) == value


@pytest.mark.parametrize("name", ["ollama", "cohere_v2"])
def test_a_choice_that_an_api_lacks_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of(name, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "add"}})
    assert caught.value.field == "tool_choice"


IMAGES: dict[str, Any] = {
    "ollama": {"role": "user", "content": "What?", "images": ["aGk="]},
    "cohere_v2": {
        "role": "user",
        "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": PNG}}],
    },
    "gemini": {
        "role": "user",
        "parts": [{"text": "What?"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}],
    },
    "anthropic": {
        "role": "user",
        "content": [
            {"type": "text", "text": "What?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        ],
    },
}


def with_image(url: str) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    body = body_of(name, messages=with_image(PNG))
    assert body.get("messages", body.get("contents")) == [IMAGES[name]]


@pytest.mark.parametrize(
    ("name", "url"), [("tgi", PNG), ("llamacpp", PNG), ("gemini", "https://a/b.png"), ("ollama", "https://a/b.png")]
)
def test_images_that_an_api_lacks_are_refused(name: str, url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of(name, messages=with_image(url))
    assert caught.value.field == "messages.0.content.1"


def test_urls_of_images() -> None:
    (message,) = body_of("anthropic", messages=with_image("https://a/b.png"))["messages"]
    assert message["content"][1] == {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}


WHOLE: dict[str, Any] = {
    "ollama": {
        "message": {
            "content": "",
            "tool_calls": [{"function": {"name": "add", "arguments": {"x": 1}}}, {"function": {"name": "now"}}],
        },
        "done": True,
        "done_reason": "stop",
    },
    "cohere_v2": {
        "message": {
            "tool_calls": [
                function_call("c1", '{"x":1}'),
                {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ]
        },
        "finish_reason": "TOOL_CALL",
    },
    "gemini": gemini(
        {"functionCall": {"name": "add", "args": {"x": 1}}}, {"functionCall": {"name": "now"}}, finishReason="STOP"
    ),
    "anthropic": {
        "content": [tool_use("c1", {"x": 1}), {"type": "tool_use", "id": "c2", "name": "now", "input": {}}],
        "stop_reason": "tool_use",
    },
}


def typed(*events: dict[str, Any]) -> list[str]:
    return named(*((event["type"], event) for event in events))


STREAMS: dict[str, list[str]] = {
    "ollama": lines(
        {"message": {"content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"x": 1}}}]}},
        {"message": {"content": "", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}},
        {"message": {"content": ""}, "done": True, "done_reason": "stop"},
    ),
    "cohere_v2": typed(
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I add."}}},
        {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": function_call("c1", "")}}},
        {
            "type": "tool-call-delta",
            "index": 0,
            "delta": {"message": {"tool_calls": {"function": {"arguments": '{"x":'}}}},
        },
        {
            "type": "tool-call-delta",
            "index": 0,
            "delta": {"message": {"tool_calls": {"function": {"arguments": "1}"}}}},
        },
        {"type": "tool-call-end", "index": 0},
        {
            "type": "tool-call-start",
            "index": 1,
            "delta": {"message": {"tool_calls": {"id": "c2", "function": {"name": "now", "arguments": ""}}}},
        },
        {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL"}},
    ),
    "gemini": sse(
        gemini({"functionCall": {"name": "add", "args": {"x": 1}}}),
        gemini({"functionCall": {"name": "now", "args": {}}}, finishReason="STOP"),
        end="\r\n",
    ),
    "anthropic": typed(
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_start", "index": 1, "content_block": tool_use("c1", {})},
        {"type": "content_block_start", "index": 2, "content_block": {**tool_use("c2", {}), "name": "now"}},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"x":'},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": "1}"},
        },
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ),
}
WITHOUT_IDS = ("ollama", "gemini")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor in ("CO", "GEMINI", "ANTHROPIC"):
        monkeypatch.setenv(f"{vendor}_API_KEY", "k")


async def answer(name: str, *, stream: bool, **fields: Any) -> Summary:
    pieces = STREAMS[name] if stream else [json.dumps(WHOLE[name])]
    async with scripted_server(lambda call: call.stream(*pieces)) as server:
        pipeline = load(folder({"use": name, "base_url": server.url}))
        async with running(pipeline):
            return summary(await collect(pipeline, chat(stream=stream, **fields)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", WHOLE)
async def test_calls(name: str, stream: bool) -> None:
    result = await answer(name, stream=stream, tools=TOOLS)
    ids = ("", "") if name in WITHOUT_IDS else ("c1", "c2")
    assert result.calls == [("add", ids[0], '{"x":1}'), ("now", ids[1], "{}")]
    assert (result.text, result.finish) == ("", "tool_calls")


@pytest.mark.parametrize("name", WHOLE)
async def test_a_call_that_the_request_does_not_allow_is_an_error(name: str) -> None:
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        with pytest.raises(UpstreamFailed, match="called a tool"):
            await answer(name, stream=True, **fields)


def test_arguments_that_only_python_takes() -> None:
    def sent(arguments: str) -> bytes:
        messages = [{"role": "assistant", "content": None, "tool_calls": [function_call("c1", arguments)]}]
        return as_json(body_of("ollama", messages=messages))

    assert b'"\\ud800"' in sent('{"x": "\\ud800"}')
    with pytest.raises(InvalidInput, match="must be JSON") as caught:
        sent('{"x": NaN}')
    assert caught.value.field == "messages.0.tool_calls.0.function.arguments"
