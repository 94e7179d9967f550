"""The process that compiles templates ends at its limits, which are low here, and the server continues."""

import subprocess
import sys

import pytest

from openai_server.prompting import template_compiler
from openai_server.prompting.template_compiler import CompilerFailed, compile_apart, problem_with
from tests.wire.fake_worker import FakeWorker
from tests.wire.sidecar import running

COSTLY = "{{ a }}" * 3900
"""A source just below the limits."""


async def test_a_template_is_compiled_in_a_process() -> None:
    compiled = await compile_apart("{{ messages }}{{ x }}{% if role == 'a' %}{% endif %}{{ m.tool_calls }}")
    assert not isinstance(compiled, str)
    words = [["a"], ["tool_calls"], [], []]
    assert compiled[1:] == (["m", "messages", "role", "x"], ["a"], True, words)
    assert await compile_apart("{% if %}") == "Expected an expression, got 'end of statement block' (line 1)"
    assert problem_with("é{{ a }}") is None
    assert "line 2" in (problem_with("\n{% if %}") or "")


@pytest.mark.slow
async def test_processor_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_compiler, "PROCESSOR_SECONDS", 0.01)
    problem = "compiling it takes more than 0.01 s of processor time"
    assert (await compile_apart(COSTLY), problem_with(COSTLY)) == (problem, problem)


@pytest.mark.slow
async def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_compiler, "MEMORY_BYTES", 40 << 20)
    problem = "it takes too much memory"
    assert (await compile_apart(COSTLY), problem_with(COSTLY)) == (problem, problem)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["/no/such/program", "/bin/false"])
async def test_a_process_that_cannot_run_is_retried(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(FakeWorker(parameters={"chat_template": "{{ messages[0].content }}"})) as sidecar:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program)
            with pytest.raises((CompilerFailed, OSError)):
                problem_with("x")
            for _ in range(2):
                reply = await sidecar.chat()
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert (await sidecar.chat()).status == 200


WITHOUT_FORK = """
import os, uvloop
from openai_server.prompting.template_compiler import compile_apart
os.register_at_fork(before=lambda: print("forked", flush=True))
print(type(uvloop.run(compile_apart("{{ a }}"))).__name__)
"""


@pytest.mark.slow
def test_the_server_does_not_fork() -> None:
    """gRPC's fork handlers would interfere with the event loop."""
    assert subprocess.check_output([sys.executable, "-c", WITHOUT_FORK], text=True, timeout=60) == "tuple\n"
