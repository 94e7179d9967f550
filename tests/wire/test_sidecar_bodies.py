"""Bodies that are expensive to decode, or have too many values. Durations: `tests.ops.hostile_bodies`."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from openai_server.access.caps import Caps
from openai_server.api.bodies.frames import Limits
from openai_server.api.bodies.helpers import Helpers
from openai_server.api.completions.request import parse
from openai_server.api.schemas import bounds
from openai_server.core.errors import BodyTooComplex, InvalidRequest, Unavailable
from protos import contract
from tests.wire.fake_worker import FakeWorker, answers, inputs_of, message, serving
from tests.wire.sidecar import Sidecar, running
from tests.wire.test_sidecar_process import open_post, sidecar

pytestmark = pytest.mark.slow

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
USER = {"role": "user", "content": "hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
N_LARGE = 20_000
"""More values than the event loop decodes itself."""


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages) or [USER], **fields}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


WIDE_SCHEMA = {"type": "object", "enum": list(range(bounds.MAX_NESTED_VALUES + 1))}

REFUSED: dict[str, tuple[str, Any, str]] = {
    "prompts": (COMPLETIONS, {"prompt": [[1]] * 2049}, "prompt"),
    "many prompts": (COMPLETIONS, {"prompt": [[1]] * N_LARGE}, "prompt"),
    "texts": (COMPLETIONS, {"prompt": ["a"] * N_LARGE}, "prompt"),
    "inputs": (EMBEDDINGS, {"input": ["a"] * N_LARGE}, "input"),
    "inputs of ids": (EMBEDDINGS, {"input": [[1]] * N_LARGE}, "input"),
    "documents": ("/v1/rerank", {"query": "q", "documents": ["a"] * N_LARGE}, "documents"),
    "documents as objects": ("/v1/rerank", {"query": "q", "documents": [{"text": "a"}] * N_LARGE}, "documents"),
    "messages": (CHAT, chat(*[USER] * 8193), "messages"),
    "messages to tokenize": ("/tokenize", chat(*[USER] * 8193), "messages"),
    "messages to render": ("/apply-template", chat(*[USER] * 8193), "messages"),
    "parts": (
        CHAT,
        chat(*[{"role": "user", "content": [{"type": "text", "text": "a"}] * 100}] * 100),
        "messages[81].content",
    ),
    "calls": (CHAT, chat(*[{"role": "assistant", "tool_calls": [CALL] * 100}] * 100), "messages[81].tool_calls"),
    "values in arguments": (
        CHAT,
        chat(USER, {"role": "assistant", "tool_calls": [tool(arguments=json.dumps([1] * 70_000)) | {"id": "a"}]}),
        "messages[1].tool_calls[0].function.arguments",
    ),
    "values in the arguments of an older call": (
        CHAT,
        chat(USER, {"role": "assistant", "function_call": {"name": "f", "arguments": json.dumps([1] * 70_000)}}),
        "messages[1].function_call.arguments",
    ),
    "tools": (CHAT, chat(tools=[tool()] * 513), "tools"),
    "functions": (CHAT, chat(functions=[{"name": "f"}] * N_LARGE), "functions"),
    "allowed tools": (
        CHAT,
        chat(
            tools=[tool()],
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}] * 600},
            },
        ),
        "tool_choice.allowed_tools.tools",
    ),
    "stop": (COMPLETIONS, {"prompt": "a", "stop": ["a"] * N_LARGE}, "stop"),
    "stop ids": (COMPLETIONS, {"prompt": "a", "stop_token_ids": [1] * N_LARGE}, "stop_token_ids"),
    "biases": (COMPLETIONS, {"prompt": "a", "logit_bias": {str(i): 1 for i in range(N_LARGE)}}, "logit_bias"),
    "breakers": (COMPLETIONS, {"prompt": "a", "dry_sequence_breakers": ["a"] * N_LARGE}, "dry_sequence_breakers"),
    "unknown keys": (COMPLETIONS, {"prompt": "a"} | {f"k{i}": 1 for i in range(N_LARGE)}, "k0"),
    "a wide schema": (CHAT, chat(json_schema=WIDE_SCHEMA), "json_schema"),
    "a wide schema of a format": (
        CHAT,
        chat(response_format={"type": "json_object", "schema": WIDE_SCHEMA}),
        "response_format",
    ),
    "a wide tool": (CHAT, chat(tools=[tool(parameters=WIDE_SCHEMA)]), "tools"),
    "a wide function": (CHAT, chat(functions=[{"name": "f", "parameters": WIDE_SCHEMA}]), "functions"),
    "wide variables": (CHAT, chat(chat_template_kwargs=WIDE_SCHEMA), "chat_template_kwargs"),
    "a deep schema": (COMPLETIONS, {"prompt": "a", "json_schema": deep(250)}, "json_schema"),
    "a deep schema of a format": (
        CHAT,
        chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": deep(250)}}),
        "response_format",
    ),
    "a deep tool": (CHAT, chat(tools=[tool(parameters=deep(300))]), "tools"),
    "a deep function": (CHAT, chat(functions=[{"name": "f", "parameters": deep(800)}]), "functions"),
    "deep variables": (CHAT, chat(chat_template_kwargs=deep(250)), "chat_template_kwargs"),
}


@pytest.mark.parametrize(("path", "body", "param"), REFUSED.values(), ids=REFUSED)
async def test_each_list_has_a_limit(path: str, body: Any, param: str) -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send("POST", path, body)
        assert (reply.status, reply.error["param"]) == (400, param), reply.body[:500]


LONG_WORD = "k" * 70_000


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat(USER, reasoning_effort=LONG_WORD), "reasoning_effort"),
        (CHAT, chat(USER, tools=[tool()], tool_choice=LONG_WORD), "tool_choice"),
        (CHAT, chat(USER, functions=[tool()["function"]], function_call=LONG_WORD), "function_call"),
        (CHAT, chat(USER, {"role": LONG_WORD, "content": "x"}), "messages[1].role"),
        (CHAT, chat({"role": "user", "content": [{"type": LONG_WORD, "text": "x"}]}), "messages[0].content[0].type"),
        (CHAT, chat(USER, tools=[{**tool(), "type": LONG_WORD}]), "tools[0].type"),
        (CHAT, chat(USER, response_format={"type": LONG_WORD}), "response_format.type"),
        (EMBEDDINGS, {"input": "x", "encoding_format": LONG_WORD}, "encoding_format"),
        (EMBEDDINGS, {"input": "x", "pooling": LONG_WORD}, "pooling"),
        ("/tokenize", {"messages": [{"role": LONG_WORD, "content": "x"}]}, "messages[0].role"),
        ("/apply-template", chat({"role": LONG_WORD, "content": "x"}), "messages[0].role"),
    ],
)
async def test_a_long_text_in_place_of_a_word_is_refused_and_not_quoted(path: str, body: Any, param: str) -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send("POST", path, body)
        assert (reply.status, reply.error["param"]) == (400, param)
        assert "65536 characters" in reply.error["message"]


async def test_template_variables_may_have_a_long_text_under_the_name_of_such_a_field() -> None:
    worker = FakeWorker(parameters={"chat_template": "{{ type }}{{ messages[0].content }}"})
    async with running(worker) as sidecar:
        reply = await sidecar.send("POST", CHAT, chat(USER, chat_template_kwargs={"type": LONG_WORD}))
        assert reply.status == 200, reply.body[:300]


async def test_a_refusal_names_the_limit() -> None:
    async with running(FakeWorker()) as sidecar:
        for path, body, limit in (
            (CHAT, chat(*[USER] * 20_000), "8192"),
            (COMPLETIONS, {"prompt": [[1]] * 3000}, "2048"),
            (EMBEDDINGS, {"input": [[1]] * 3000}, "2048"),
            (CHAT, chat(tools=[tool()] * 600), "512"),
            (COMPLETIONS, {"prompt": "a", "json_schema": deep(250)}, "200"),
        ):
            reply = await sidecar.send("POST", path, body)
            assert (reply.status, limit in reply.error["message"]) == (400, True), reply.error


@pytest.mark.parametrize(
    "path", [COMPLETIONS, CHAT, EMBEDDINGS, "/v1/rerank", "/tokenize", "/detokenize", "/apply-template"]
)
@pytest.mark.parametrize("element", ["1", "[1]", "{}", '"a"', "[[]]", "1]", "{"])
async def test_too_many_values_are_a_413_whatever_else_is_wrong(path: str, element: str) -> None:
    body = f'{{"x":[{",".join([element] * 600)}]}}'.encode()
    async with running(FakeWorker(), max_json_values=500) as sidecar:
        reply = await sidecar.send("POST", path, body)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (413, "request_too_large", None)
        assert "500 JSON values" in reply.error["message"]


async def test_values_up_to_the_limit_are_answered() -> None:
    async with running(FakeWorker(), max_json_values=100) as sidecar:
        assert (await sidecar.complete(prompt=list(range(99)))).status == 200  # the list and the object count too
        assert (await sidecar.complete(prompt=list(range(100)))).status == 413


# ---- Bodies that a helper process decodes


def inputs(worker: FakeWorker) -> dict[str, list[Any]]:
    return inputs_of(worker.requests[-1])


async def test_long_prompts_of_token_ids_arrive_unchanged() -> None:
    worker, ids = FakeWorker(), [i * 7919 % 2**31 for i in range(30_000)]
    async with running(worker) as sidecar:
        reply = await sidecar.complete(prompt=ids, max_tokens=5)
        assert reply.status == 200
        assert inputs(worker)["prompt_token_ids"] == ids
        assert inputs(worker)["max_tokens"] == [5]
        assert (await sidecar.complete(prompt=[ids, ids[:5]])).status == 200
        assert sorted(len(inputs_of(request)["prompt_token_ids"]) for request in worker.requests[-2:]) == [5, 30_000]


async def test_floats_without_a_fraction_are_integers_in_large_bodies_too() -> None:
    worker, ids = FakeWorker(), [float(i) for i in range(30_000)]
    async with running(worker) as sidecar:
        assert (await sidecar.complete(prompt=ids, max_tokens=5.0)).status == 200
        assert inputs(worker)["prompt_token_ids"] == list(range(30_000))
        assert inputs(worker)["max_tokens"] == [5]
        refused = await sidecar.complete(prompt=[*ids, 2.5])
        assert (refused.status, refused.error["param"]) == (400, "prompt[30000]")


async def test_a_large_chat_becomes_the_same_prompt_as_a_small_one() -> None:
    worker = FakeWorker(parameters={"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"})
    messages = [{"role": "user", "content": f"é{i} "} for i in range(8192)]
    async with running(worker) as sidecar:
        reply = await sidecar.chat(*messages, temperature=0.5, metadata={str(i): "a" for i in range(20_000)})
        assert reply.status == 200, reply.body
        assert inputs(worker)["prompt"] == ["".join(f"é{i} " for i in range(8192)).encode()]
        assert inputs(worker)["temperature"] == [0.5]


async def test_large_texts_arrive_unchanged() -> None:
    worker = FakeWorker()
    for text in ("漢字\n😀" * 300_000, "a" * 4_000_000, '{"a": [1, 2]}\\\\' * 100_000):
        async with running(worker) as sidecar:
            assert (await sidecar.complete(prompt=text)).status == 200
            assert inputs(worker)["prompt"] == [text.encode()]


async def test_large_bodies_have_the_errors_of_small_ones() -> None:
    async with running(FakeWorker()) as sidecar:
        for post_large_body in (False, True):
            n = N_LARGE if post_large_body else 3
            reply = await sidecar.complete(prompt=[0] * n + ["a"])
            assert (reply.status, reply.error["param"]) == (400, "prompt")
            reply = await sidecar.complete(prompt=[0] * n + [2**31])
            assert (reply.status, reply.error["param"]) == (400, f"prompt[{n}]")
            reply = await sidecar.send("POST", "/detokenize", b'{"tokens":[' + b"1," * n + b"]}")
            assert (reply.status, reply.error["code"]) == (400, "invalid_json")
            reply = await sidecar.complete(prompt=[0] * n, verbosity=1)
            assert (reply.status, reply.error["param"]) == (400, "verbosity")
            reply = await sidecar.complete(prompt=[0] * n, best_of=1, n=2)
            assert (reply.status, reply.error["param"]) == (400, "best_of")


async def test_the_servers_limits_apply_to_large_bodies_too() -> None:
    async with running(FakeWorker(), max_prompt_chars=19_999, max_output_tokens=5) as sidecar:
        reply = await sidecar.complete(prompt="a", suffix="a" * N_LARGE)
        assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "suffix", "string_above_max_length")
        reply = await sidecar.complete(prompt=[0] * N_LARGE)
        assert (reply.status, reply.error["code"]) == (400, "array_above_max_length")
        reply = await sidecar.complete(prompt=[[0] * 9000] * 3, max_tokens=6)
        assert (reply.status, reply.error["param"]) == (400, "max_tokens")


async def test_quotes_in_errors_are_bounded() -> None:
    async with running(FakeWorker()) as sidecar:
        for body in (
            {"prompt": "a", "a" * 3_000_000: 1},
            {"prompt": "a", "model": "m" * 3_000_000},
            {"prompt": "a", "response_format": {"type": "t" * 3_000_000}},
            {"prompt": "a", "logit_bias": {"t" * 3_000_000: 1}},
        ):
            reply = await sidecar.send("POST", COMPLETIONS, body)
            assert 400 <= reply.status < 500
            assert reply.error["message"]
            assert len(reply.body) < 20_000


# ---- The helper processes


def helpers(pid: int | None = None) -> list[int]:
    """Returns the process ids of the helpers of process `pid`; None: of this process."""
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/cmdline") as command:
                    parent, program = stat.read().rpartition(")")[2].split()[1], command.read()
            except OSError:
                continue
            if int(parent) == (pid or os.getpid()) and "bodies.helper" in program:
                pids.append(int(entry))
    return pids


def environment(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


async def large_completion(sidecar: Sidecar) -> int:
    return (await sidecar.complete(prompt=[0] * N_LARGE)).status


async def test_a_helper_starts_for_the_first_large_body_and_ends_with_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_SERVER_API_KEY", "secret")
    async with running(FakeWorker()) as sidecar:
        assert (await sidecar.complete(prompt="a")).status == 200
        assert helpers() == []
        assert await large_completion(sidecar) == 200
        (pid,) = helpers()
        assert await large_completion(sidecar) == 200
        assert helpers() == [pid]
        assert "OPENAI_SERVER_" not in environment(pid)
    assert helpers() == []


async def test_a_helper_that_dies_is_replaced() -> None:
    async with running(FakeWorker()) as sidecar:
        assert await large_completion(sidecar) == 200
        os.kill(helpers()[0], signal.SIGKILL)
        assert await large_completion(sidecar) in (200, 503)
        assert await large_completion(sidecar) == 200


async def test_many_large_bodies_at_once_are_all_answered() -> None:
    async with running(FakeWorker()) as sidecar:
        assert await asyncio.gather(*(large_completion(sidecar) for _ in range(12))) == [200] * 12
        assert 1 <= len(helpers()) <= 2


async def test_clients_that_disconnect_leave_no_memory_reserved() -> None:
    async with running(FakeWorker()) as sidecar:
        calls = [sidecar.start("POST", COMPLETIONS, {"prompt": [0] * N_LARGE}) for _ in range(5)]
        for call in calls:
            await asyncio.sleep(0)
            call.disconnect()
        await asyncio.gather(*(call.task for call in calls))
        assert await large_completion(sidecar) == 200
        assert sidecar.app.gate.held == 0


# ---- What a body costs its caller


async def test_decoded_values_count_against_the_limit_of_bodies_in_memory() -> None:
    async with running(FakeWorker(), max_body_bytes=10**6, max_inflight_body_bytes=10**6) as sidecar:
        assert (await sidecar.complete(prompt="a" * 500_000)).status == 200
        reply = await sidecar.complete(prompt=[1] * 40_000)
        assert (reply.status, reply.error["code"]) == (429, "server_overloaded")
        assert sidecar.app.gate.held == 0


async def n_charged(sidecar: Sidecar, path: str, body: object) -> int:
    reply = await sidecar.send("POST", path, body)
    return 10**6 - int(reply.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize(
    ("path", "field", "wrap"),
    [
        (COMPLETIONS, "prompt", lambda ids: ids),
        (COMPLETIONS, "prompt", lambda ids: [ids[:9000], ids[9000:]]),
        (EMBEDDINGS, "input", lambda ids: ids),
        ("/detokenize", "tokens", lambda ids: ids),
    ],
)
@pytest.mark.parametrize("n", [10_000, 30_000])
async def test_token_ids_are_reserved_as_tokens(path: str, field: str, wrap: Callable[[Any], Any], n: int) -> None:
    other_fields = {"max_tokens": 0} if path == COMPLETIONS else {}
    async with running(FakeWorker(), tokens_per_minute=10**6) as sidecar:
        sidecar.app.gate.clock = lambda: 1e6
        assert await n_charged(sidecar, path, {field: wrap([1] * n), **other_fields}) == n


async def test_detokenized_tokens_are_charged() -> None:
    response = message((contract.WHOLE_TEXT, [b"x"]))
    worker = FakeWorker(answers(response), parameters={"tasks": contract.TASK_DETOKENIZE})
    async with running(worker, tokens_per_minute=10**6) as sidecar:
        sidecar.app.gate.clock = lambda: 1e6
        reply = await sidecar.send("POST", "/detokenize", {"tokens": [1] * 30_000})
        assert (reply.status, len(inputs(worker)["prompt_token_ids"])) == (200, 30_000)
        assert await n_charged(sidecar, "/detokenize", {"tokens": [1]}) == 30_001


# ---- Real processes


async def post_large_body(port: int) -> int:
    async with open_post(port, COMPLETIONS, {"prompt": [0] * N_LARGE}) as response:
        return int((await response.readline()).split()[1])


async def test_each_worker_process_has_its_own_helpers_which_end_with_it() -> None:
    async with serving(FakeWorker()) as port, sidecar(port, workers=2) as running:
        assert await asyncio.gather(*(post_large_body(running.port) for _ in range(20))) == [200] * 20
        by_process = [helpers(process) for process in running.children]
        assert all(len(group) <= 2 for group in by_process)
        helper_pids = [pid for group in by_process for pid in group]
        assert helper_pids
        for pid in running.children:
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not any(map(is_alive, helper_pids)))


async def test_helpers_end_with_a_server_that_is_killed() -> None:
    async with serving(FakeWorker()) as port, sidecar(port) as running:
        assert await post_large_body(running.port) == 200
        pids = helpers(running.process.pid)
        assert pids
        running.process.kill()
        await wait_until(lambda: not any(map(is_alive, pids)))


async def test_helpers_end_with_a_server_that_is_terminated() -> None:
    async with serving(FakeWorker()) as port, sidecar(port) as running:
        assert await post_large_body(running.port) == 200
        pids = helpers(running.process.pid)
        await running.drain_with(signal.SIGTERM)
        assert await running.exit_status() == 0
        assert not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it took longer than 30 s")


# ---- A helper at its limits


async def run_with_limits(body: bytes, limits: Limits) -> None:
    helpers = Helpers(limits)
    try:
        await helpers.run(parse, body, "anyone")
    finally:
        await helpers.close()


async def test_a_body_that_takes_too_long_is_a_413() -> None:
    body = json.dumps({f"k{i}": i for i in range(300_000)}).encode()
    with pytest.raises(BodyTooComplex):
        await run_with_limits(body, Limits(Caps(), seconds=0.01, memory=1 << 30))


async def test_a_body_that_takes_too_much_memory_is_a_413() -> None:
    body = json.dumps({"prompt": [{}] * 2_000_000}).encode()
    with pytest.raises(BodyTooComplex):
        await run_with_limits(body, Limits(Caps(), seconds=10, memory=150 << 20))


async def test_a_helper_that_can_not_start_is_a_503() -> None:
    helpers = Helpers(Limits(Caps(), 1, 1 << 30), program=(sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(Unavailable):
        await helpers.run(parse, b"{}", "anyone")
    await helpers.close()


async def test_the_queue_of_helpers_is_bounded() -> None:
    slow = json.dumps({"prompt": [[1]] * 200_000}).encode()
    helpers = Helpers(Limits(Caps(), 10, 1 << 30), processes=1, queue_timeout=0.001)
    jobs = [asyncio.create_task(helpers.run(parse, slow, "anyone")) for _ in range(5)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert sorted(type(error).__name__ for error in results) == ["InvalidRequest", *["Overloaded"] * 4]
    await helpers.close()


async def test_callers_take_turns_at_helpers() -> None:
    body = json.dumps({"prompt": [[1]] * 50_000}).encode()
    helpers, order = Helpers(Limits(Caps(), 10, 1 << 30), processes=1), []

    async def run_as(caller: str) -> None:
        with suppress(InvalidRequest):
            await helpers.run(parse, body, caller)
        order.append(caller)

    first = [asyncio.create_task(run_as("floods")) for _ in range(8)]
    await asyncio.sleep(0)
    await asyncio.gather(*first, asyncio.create_task(run_as("other")))
    assert order.index("other") <= 1
    await helpers.close()
