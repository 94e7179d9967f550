"""Answers of an upstream with OpenAI's API, over HTTP."""

import asyncio
import json
from typing import Any

import pytest

from anyserve_worker.pipelines.core.errors import TimedOut, UpstreamFailed
from anyserve_worker.pipelines.core.events import Usage
from anyserve_worker.pipelines.openai_api import load
from anyserve_worker.pipelines.upstream import answers
from tests.anyserve_worker.pipelines.answering import TOOLS, Summary, abandon, chat, collect, folder, running, summary
from tests.anyserve_worker.pipelines.scripted_server import Call, Script, scripted_server


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **fields: Any) -> str:
    choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish}]
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': choices, **fields})}\n\n"


USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
DONE = "data: [DONE]\n\n"


async def answer(script: Script, **fields: Any) -> Summary:
    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url, "timeouts": {"first_byte": 1, "gap": 1, "total": 3}}))
        async with running(pipeline):
            return summary(await collect(pipeline, chat(**fields)))


def streamed(*pieces: str | bytes) -> Script:
    return lambda call: call.stream(*pieces)


async def test_a_stream_has_text_reasoning_counts_and_end() -> None:
    script = streamed(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm"}),
        chunk({"reasoning": "m"}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}, "length", usage=USAGE),
        DONE,
    )
    expected = Summary(text="Hello", reasoning="Hmm", usage=Usage(5, 7, 3, 2), finish="length")
    assert await answer(script, stream=True) == expected


async def test_counts_after_the_end_of_the_choice() -> None:
    script = streamed(chunk({"content": "Hello"}), chunk({}, "stop"), chunk(usage=USAGE), DONE)
    assert await answer(script, stream=True) == Summary(text="Hello", usage=Usage(5, 7, 3, 2), finish="stop")


async def test_a_whole_answer() -> None:
    message = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm", "refusal": "No"}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}
    expected = Summary("Hello", "Hm", "No", usage=Usage(5, 7, 3, 2), finish="stop")
    assert await answer(lambda call: call.reply(body)) == expected
    assert await answer(lambda call: call.reply(body), stream=True) == expected


def calls(*pieces: dict[str, Any]) -> str:
    return chunk({"tool_calls": list(pieces)})


async def test_a_call_whose_name_arrives_late_and_without_a_number() -> None:
    script = streamed(
        calls({"id": "a", "function": {"arguments": '{"x"'}}),
        calls({"function": {"name": "add", "arguments": ": 1}"}}),
        calls({"function": {"name": "add", "arguments": {"y": "\ud800"}}}),
        chunk({}, "tool_calls"),
    )
    expected = [("add", "a", '{"x": 1}'), ("add", "", '{"y":"\ud800"}')]
    assert (await answer(script, stream=True, tools=TOOLS)).calls == expected


async def test_counts_that_are_none_are_left_out() -> None:
    for count in (-1, 1 << 31, "5", None, True, float("inf")):
        usage = {"prompt_tokens": count, "completion_tokens": 1}
        script = streamed(chunk({"content": "a"}, "stop", usage=usage), DONE)
        assert await answer(script, stream=True) == Summary("a", finish="stop")


async def test_interleaved_tool_calls() -> None:
    script = streamed(
        calls({"index": 0, "id": "call_a", "type": "function", "function": {"name": "add", "arguments": ""}}),
        calls({"index": 1, "id": "call_b", "function": {"name": "add", "arguments": '{"x"'}}),
        calls({"index": 0, "function": {"arguments": '{"y": 1}'}}, {"index": 1, "function": {"arguments": ": 2}"}}),
        chunk({}, "tool_calls"),
        DONE,
    )
    result = await answer(script, stream=True, tools=TOOLS)
    assert result.calls == [("add", "call_a", '{"y": 1}'), ("add", "call_b", '{"x": 2}')]
    assert result.finish == "tool_calls"


async def test_calls_of_a_whole_answer() -> None:
    calls = [
        {"id": "call_a", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}},
        {"id": "call_b", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
        {"id": "call_c", "type": "function", "function": {"name": "now", "arguments": ""}},
    ]
    body = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "stop"}]}
    result = await answer(lambda call: call.reply(body), tools=TOOLS)
    assert result.calls == [("add", "call_a", '{"x": 1}'), ("shell", "call_b", "ls"), ("now", "call_c", "{}")]
    assert result.finish == "tool_calls"


async def test_the_older_form_of_a_call() -> None:
    script = streamed(
        chunk({"function_call": {"name": "add", "arguments": ""}}),
        chunk({"function_call": {"arguments": "{}"}}),
        chunk({}, "function_call"),
        DONE,
    )
    result = await answer(script, stream=True, functions=[{"name": "add"}])
    assert (result.calls, result.finish) == ([("add", "", "{}")], "tool_calls")


async def test_a_call_that_the_request_does_not_allow_is_an_error() -> None:
    script = streamed(chunk({"tool_calls": [{"index": 0, "function": {"name": "add"}}]}), DONE)
    with pytest.raises(UpstreamFailed, match="called a tool"):
        await answer(script, stream=True)


async def test_several_choices() -> None:
    pieces = (
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}, "stop"),
        chunk({"content": "B"}, "length", index=1),
        DONE,
    )
    async with scripted_server(streamed(*pieces)) as server:
        pipeline = load(folder({"base_url": server.url}))
        async with running(pipeline):
            events = await collect(pipeline, chat(n=2, stream=True))
            assert summary(events, 0) == Summary(text="a", finish="stop")
            assert summary(events, 1) == Summary(text="bB", finish="length")
            with pytest.raises(UpstreamFailed, match="2 of 3"):
                await collect(pipeline, chat(n=3, stream=True))
            with pytest.raises(UpstreamFailed, match="wasn't requested"):
                await collect(pipeline, chat(stream=True))


async def test_deviations_of_real_servers() -> None:
    script = streamed(
        ": OPENROUTER PROCESSING\r\n\r\n",
        chunk({"content": "a"}).replace("data: ", "data:").replace("\n", "\r\n"),
        chunk({"content": "b"}).strip() + chunk({"content": "c"}),
        chunk({"content": [{"type": "thinking", "thinking": [{"text": "t"}]}, {"type": "text", "text": "d"}]}),
        chunk({}, "eos"),
        "data:[DONE]",
    )
    assert await answer(script, stream=True) == Summary(text="abcd", reasoning="t", finish="stop")


@pytest.mark.parametrize(
    ("end", "finish"), [(chunk({}, "stop"), "stop"), (DONE, "stop"), (chunk({}, "content_filter"), "content_filter")]
)
async def test_a_finish_reason_or_the_mark_is_enough(end: str, finish: str) -> None:
    assert await answer(streamed(chunk({"content": "a"}), end), stream=True) == Summary(text="a", finish=finish)


BROKEN = {
    "no end": (chunk({"content": "a"}),),
    "cut": (chunk({"content": "a"})[:-9],),
    "nothing": ("",),
    "only the mark": (DONE,),
    "error in a chunk": (chunk({"content": "a"}), 'data: {"error": {"message": "boom", "code": "x"}}\n\n', DONE),
    "error in a choice": ('data: {"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 502}}]}\n\n',),
    "error without framing": ('{"error": {"message": "boom"}}\n',),
    "page": ("<html><body>Bad gateway</body></html>",),
    "unknown reason": (chunk({"content": "a"}, "network_error"), DONE),
    "a reason that is a list": (chunk({"content": "a"}, ["stop"]), DONE),  # type: ignore[arg-type]
    "a code with many digits": (chunk({"content": "a"}), '{"error": {"message": "b", "code": "%s"}}' % ("9" * 5000)),
    "arguments that are not JSON": (calls({"function": {"name": "add", "arguments": {"x": float("nan")}}}), DONE),
    "a name that is no text": (calls({"index": 0, "function": {"name": True, "arguments": "{}"}}), DONE),
    "no JSON": ("data: oops\n\n", DONE),
    "no object": ("data: 7\n\n", DONE),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_stream_is_an_error(case: str) -> None:
    with pytest.raises(UpstreamFailed):
        await answer(streamed(*filter(None, BROKEN[case])), stream=True, tools=TOOLS)


async def test_a_reset_within_the_stream_is_an_error() -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.send(chunk({"content": "a"}))
        await asyncio.sleep(0.02)
        call.reset()

    with pytest.raises(UpstreamFailed, match="connection broke"):
        await answer(script, stream=True)


async def test_a_connection_that_ends_before_the_answer_is_an_error_and_not_tried_again() -> None:
    async def script(call: Call) -> None:
        n_requests.append(1)
        call.reset()

    n_requests: list[int] = []
    with pytest.raises(UpstreamFailed, match="without an answer"):
        await answer(script, stream=True)
    assert n_requests == [1]


@pytest.mark.parametrize("ends", [True, False])
async def test_a_stream_that_stays_open_after_its_end(monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.send(chunk({"content": "a"}, "stop") + (DONE if ends else ""))
        await call.until_closed()

    monkeypatch.setattr(answers, "TAIL_SECONDS", 0.05)
    assert await answer(script, stream=True) == Summary(text="a", finish="stop")


@pytest.mark.parametrize("phase", ["no answer", "no first byte", "gap", "whole"])
async def test_time_limits(phase: str) -> None:
    async def script(call: Call) -> None:
        if phase in ("no first byte", "gap"):
            await call.begin()
        if phase == "gap":
            await call.send(chunk({"content": "a"}))
        await call.until_closed()
        closed.set()

    closed = asyncio.Event()
    limits = {"first_byte": 0.05, "gap": 0.05, "total": 0.1 if phase == "whole" else 5}
    if phase == "gap":
        limits["first_byte"] = 5
    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url, "timeouts": limits}))
        async with running(pipeline):
            with pytest.raises(TimedOut):
                await collect(pipeline, chat(stream=phase != "whole"))
            await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("phase", ["whole", "before the first token", "within the stream"])
async def test_a_client_that_leaves_closes_the_connection(phase: str) -> None:
    async def script(call: Call) -> None:
        if phase != "whole":
            await call.begin()
        if phase == "within the stream":
            await call.send(chunk({"content": "a"}))
        reached.set()
        await call.until_closed()
        closed.set()

    reached, closed = asyncio.Event(), asyncio.Event()
    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url}))
        async with running(pipeline):
            await abandon(pipeline, chat(stream=phase != "whole"), reached)
            await asyncio.wait_for(closed.wait(), 5)
