"""Chat templates that are expensive or impossible to compile: compiled once, beside the event loop, or clearly
refused."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from tests.wire.fake_worker import FakeWorker, inputs_of
from tests.wire.sidecar import running

LIST = "{{ [" + "1," * (1 << 19) + "] }}"
SETS = "".join(f"{{% set a{k} = 1 %}}" for k in range(900))
REFUSED = {
    "256 KiB of outputs": ("{{ a }}" * (256 * 1024 // 7), "262143 characters; at most 131072 are allowed"),
    "1 MiB of a list": (LIST, "characters; at most 131072 are allowed"),
    "128 KiB of outputs": ("{{ a }}" * (128 * 1024 // 7), "more than 12000 tokens"),
    "128 KiB of a list": ("{{ [" + "1," * 60_000 + "] }}", "more than 12000 tokens"),
    "code of quadratic length": (SETS + "{% include 'x' %}" * 800, "more than 1048576 characters of Python code"),
    "lists in lists": ("{{ " + "[" * 3000 + "]" * 3000 + " }}", "nests too deeply"),
    "a syntax error": ("\n{% for %}", "line 2"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("parameter", ["chat_template", "chat_template_tool_use"])
async def test_a_template_that_cant_be_compiled_is_refused(name: str, parameter: str) -> None:
    source, problem = REFUSED[name]
    tools = [{"type": "function", "function": {"name": "f"}}] if parameter == "chat_template_tool_use" else None
    worker = FakeWorker(parameters={"chat_template": "fine", parameter: source})
    chat = {"messages": [{"role": "user", "content": "x"}], "tools": tools}
    async with running(worker) as sidecar:
        for path in ("/v1/chat/completions", "/apply-template"):
            reply = await sidecar.send("POST", path, chat)
            assert (reply.status, reply.error["code"]) == (400, "chat_template_failed")
            assert reply.error["message"].startswith("The chat template can't be compiled: ")
            assert problem in reply.error["message"]
        assert (await sidecar.complete(prompt="x")).status == 200  # completions use no template
        if tools:
            assert (await sidecar.chat()).status == 200  # chats without tools use another one


@pytest.mark.usefixtures("compilations_of_its_own")
@pytest.mark.parametrize("name", ["128 KiB of outputs", "a syntax error"])
async def test_a_template_that_cant_be_compiled_costs_one_attempt(name: str, caplog: pytest.LogCaptureFixture) -> None:
    source, problem = REFUSED[name]
    caplog.set_level(logging.WARNING)
    async with running(FakeWorker(parameters={"chat_template": source})) as sidecar:
        replies = await asyncio.gather(*(sidecar.chat(stream=k % 2 == 0) for k in range(30)))
        replies += [await sidecar.chat() for _ in range(30)]
        assert {reply.status for reply in replies} == {400}
    assert [problem in record.message for record in caplog.records if "compiled" in record.message] == [True]


@pytest.mark.slow
@pytest.mark.usefixtures("compilations_of_its_own")
async def test_other_requests_are_answered_while_a_template_is_compiled() -> None:
    # As much output as the limits allow.
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{% if false %}" + "{{ a }}" * 3900 + "{% endif %}"
    worker = FakeWorker(parameters={"chat_template": source})
    async with running(worker) as sidecar:
        chats = [sidecar.start("POST", "/v1/chat/completions", {"messages": [MESSAGE]}) for _ in range(50)]
        n_meanwhile = 0
        while not chats[0].task.done():
            assert (await sidecar.get("/livez")).status == 200
            assert (await sidecar.complete(prompt="x")).status == 200
            n_meanwhile += 1
        assert n_meanwhile > 1
        chats[1].disconnect()
        for call in chats:
            await asyncio.wait_for(call.task, 30)
        assert [call.reply.status for call in chats[2:]] == [200] * 48
    assert [b"hi"] in [inputs_of(request)["prompt"] for request in worker.requests]


MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.usefixtures("compilations_of_its_own")
async def test_compilation_continues_if_the_first_client_disconnects() -> None:
    async with running(FakeWorker(parameters={"chat_template": "{{ messages[0].content }}"})) as sidecar:
        first, second = (sidecar.start("POST", "/v1/chat/completions", {"messages": [MESSAGE]}) for _ in range(2))
        await asyncio.sleep(0)
        first.disconnect()
        for call in (first, second):
            await asyncio.wait_for(call.task, 30)
        assert second.reply.status == 200


BOMBS = (
    "{{ 'a' * 10 ** 9 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ [0] * 10 ** 9 }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'a'.ljust(1000000000) ~ 'b' }}",
    "{{ range(1000000000) | list }}",
    "{{ ('a' * 4096) * 4096 * 4096 }}",
)


@pytest.mark.parametrize("bomb", [BOMBS[0], *(pytest.param(bomb, marks=pytest.mark.slow) for bomb in BOMBS[1:])])
async def test_constants_are_not_evaluated_while_compiling(bomb: str) -> None:
    """Rendering refuses them; where they are not rendered they do no harm."""
    async with running(FakeWorker(parameters={"chat_template": bomb})) as sidecar:
        reply = await sidecar.chat()
        assert (reply.status, reply.error["code"]) == (400, "chat_template_failed")
    worker = FakeWorker(parameters={"chat_template": "{% if messages[0].content == 'bomb' %}" + bomb + "{% endif %}ok"})
    async with running(worker) as sidecar:
        assert (await sidecar.chat()).status == 200
        assert (await sidecar.chat({"role": "user", "content": "bomb"})).status == 400


@pytest.mark.slow
async def test_an_operators_template_that_cant_be_compiled_is_refused_at_startup(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    for name, option, value in (
        ("a syntax error", "--chat-template", str(path)),
        ("256 KiB of outputs", "--chat-template", f"tiny={path}"),
        ("128 KiB of outputs", "--tokenizer", f"tiny={tmp_path}"),
    ):
        source, problem = REFUSED[name]
        path.write_text(source)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openai_server", "--port", "0", option, value),
            stderr=asyncio.subprocess.PIPE,
        )
        _, output = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 1
        assert output.decode().startswith(f"Error: {option} {str(path)!r}: the chat template can't be compiled: ")
        assert problem in output.decode()
