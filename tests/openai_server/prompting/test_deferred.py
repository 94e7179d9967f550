"""The planner that is created at the first chat."""

import asyncio
import subprocess
import sys
from typing import Any, cast

import pytest

from openai_server.core.turn import Turn
from openai_server.prompting.chat_prompt import ChatPrompt
from openai_server.prompting.deferred import DeferredPlanner
from openai_server.prompting.planner import ChatPlanner


class FakePlanner:
    async def plan(self, turn: Any, _: object, __: object, *, caller: str) -> str:
        return f"{caller} {turn}"

    async def prompt(self, turn: Any, _: object, __: object, *, caller: str) -> ChatPrompt:
        return ChatPrompt(f"{caller}: {turn}")


async def test_a_planner_is_created_once_for_concurrent_first_chats() -> None:
    n_created = 0

    def create() -> ChatPlanner:
        nonlocal n_created
        n_created += 1
        return cast(ChatPlanner, FakePlanner())

    planner, turn = DeferredPlanner(create), cast(Turn, "turn")
    assert n_created == 0
    plan, prompt = await asyncio.gather(
        planner.plan(turn, {}, (), caller="anna"), planner.prompt(turn, {}, (), caller="ben")
    )
    assert cast(object, plan) == "anna turn"
    assert prompt.text == "ben: turn"
    assert n_created == 1


async def test_a_failed_creation_is_retried_at_the_next_chat() -> None:
    failures = [MemoryError()]

    def create() -> ChatPlanner:
        if failures:
            raise failures.pop()
        return cast(ChatPlanner, FakePlanner())

    planner, turn = DeferredPlanner(create), cast(Turn, "turn")
    with pytest.raises(MemoryError):
        await planner.prompt(turn, {}, (), caller="anna")
    assert (await planner.prompt(turn, {}, (), caller="anna")).text == "anna: turn"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["jinja2", "openai_server.parsing.tools", "openai_server.prompting.template"])
def test_a_server_without_chats_does_not_import_the_modules_of_chats(module: str) -> None:
    program = f"import sys, openai_server.serving; sys.exit({module!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
