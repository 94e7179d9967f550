"""Plans chats outside the event loop: compiles each chat template once, then renders in a thread."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from openai_server.core.errors import Unavailable
from openai_server.core.turn import Turn
from openai_server.prompting.chat_prompt import ChatPrompt
from openai_server.prompting.plan import Plan, Planner
from openai_server.prompting.source import CompiledSource, Words, compile_source
from openai_server.prompting.template import CHATML, NotCompiled, Templates
from openai_server.prompting.template_compiler import CompilerFailed, compile_apart

log = logging.getLogger(__name__)

MAX_COMPILATIONS = 2
"""Number of templates that are compiled at the same time."""
T = TypeVar("T")


class Threads(Protocol):
    """Threads for work that takes milliseconds, shared fairly between callers."""

    def run(self, caller: str, work: Callable[..., T], *args: Any) -> Awaitable[T]:
        """The result of `work` for this caller. Raises what `work` raises, and Overloaded."""


class ChatPlanner:
    """Runs the methods of `planner` in `threads`. `templates`, which `planner` uses, must not compile by themselves."""

    def __init__(self, templates: Templates, planner: Planner, threads: Threads) -> None:
        self._templates = templates
        self._planner = planner
        self._threads = threads
        self._compiling: dict[str, asyncio.Task[None]] = {}
        """Running compilations, by source. Requests for a template share one, and wait for it without a thread."""
        self._slots = asyncio.Semaphore(MAX_COMPILATIONS)

    async def plan(
        self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str], *, caller: str
    ) -> Plan:
        """Raises InvalidRequest, Unavailable, Overloaded."""
        return await self._run(turn, parameters, caller, partial(self._planner.plan, turn, parameters, input_names))

    async def prompt(
        self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str], *, caller: str
    ) -> ChatPrompt:
        """Raises InvalidRequest, Unavailable, Overloaded."""
        return await self._run(turn, parameters, caller, partial(self._planner.prompt, turn, parameters, input_names))

    async def _run(self, turn: Turn, parameters: Mapping[str, str], caller: str, work: Callable[[], T]) -> T:
        source = self._planner.template_for(turn, parameters)
        while True:
            try:
                self._templates.find(source)
                # In a thread, so that a slow template does not delay other streams.
                return await self._threads.run(caller, work)
            except NotCompiled:  # not compiled yet, or evicted for other templates
                await self._compile(source)

    async def _compile(self, source: str) -> None:
        """Raises Unavailable."""
        task = self._compiling.get(source)
        if task is None:
            task = self._compiling[source] = asyncio.create_task(self._compile_once(source))
            task.add_done_callback(partial(self._compiled, source))
        await asyncio.shield(task)  # the compilation continues if this request is cancelled

    def _compiled(self, source: str, task: "asyncio.Task[None]") -> None:
        del self._compiling[source]
        if not task.cancelled():
            task.exception()  # otherwise asyncio logs the exception as never retrieved

    async def _compile_once(self, source: str) -> None:
        async with self._slots:
            if source is CHATML:  # trusted
                compiled: CompiledSource | str = compile_source(source)
            else:
                try:
                    result = await compile_apart(source)
                except CompilerFailed as error:
                    log.error("can't compile a chat template: %s", error)
                    raise Unavailable(
                        "The server can't compile the chat template at the moment; please try again."
                    ) from error
                if isinstance(result, str):
                    log.warning("a chat template can't be compiled: %s", result)
                    compiled = result
                else:
                    code, variables, roles, mentions_tool_calls, words = result
                    compiled = CompiledSource(
                        code, frozenset(variables), frozenset(roles), mentions_tool_calls, Words(*map(frozenset, words))
                    )
            await asyncio.to_thread(self._templates.keep, source, compiled)
