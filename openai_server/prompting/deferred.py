"""The chat planner, made at the first chat: a sidecar that only completes or embeds never imports Jinja."""

import asyncio
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING

from openai_server.core.turn import Turn
from openai_server.prompting.chat_prompt import ChatPrompt

if TYPE_CHECKING:
    from openai_server.prompting.plan import Plan
    from openai_server.prompting.planner import ChatPlanner


class DeferredPlanner:
    """The methods of the ChatPlanner that `make` returns. `make` runs once, in a thread: its imports take 50 ms."""

    def __init__(self, make: "Callable[[], ChatPlanner]") -> None:
        self._make = make
        self._planner: ChatPlanner | None = None
        self._making = asyncio.Lock()

    async def plan(
        self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str], *, caller: str
    ) -> "Plan":
        """Raises InvalidRequest, Unavailable, Overloaded."""
        planner = self._planner or await self._made()
        return await planner.plan(turn, parameters, input_names, caller=caller)

    async def prompt(
        self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str], *, caller: str
    ) -> ChatPrompt:
        """Raises InvalidRequest, Unavailable, Overloaded."""
        planner = self._planner or await self._made()
        return await planner.prompt(turn, parameters, input_names, caller=caller)

    async def _made(self) -> "ChatPlanner":
        async with self._making:
            if self._planner is None:
                self._planner = await asyncio.to_thread(self._make)
            return self._planner
