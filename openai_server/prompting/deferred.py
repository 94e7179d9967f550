"""Creates the chat planner at the first chat, so that a sidecar without chats never imports Jinja."""

import asyncio
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING

from openai_server.core.turn import Turn
from openai_server.prompting.chat_prompt import ChatPrompt

if TYPE_CHECKING:
    from openai_server.prompting.plan import Plan
    from openai_server.prompting.planner import ChatPlanner


class DeferredPlanner:
    """Has the methods of the ChatPlanner that `create` returns. `create` runs once, in a thread: its imports take 50
    ms."""

    def __init__(self, create: "Callable[[], ChatPlanner]") -> None:
        self._create = create
        self._planner: ChatPlanner | None = None
        self._creation_lock = asyncio.Lock()

    async def plan(
        self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str], *, caller: str
    ) -> "Plan":
        """Raises InvalidRequest, Unavailable, Overloaded."""
        planner = self._planner or await self._get()
        return await planner.plan(turn, parameters, input_names, caller=caller)

    async def prompt(
        self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str], *, caller: str
    ) -> ChatPrompt:
        """Raises InvalidRequest, Unavailable, Overloaded."""
        planner = self._planner or await self._get()
        return await planner.prompt(turn, parameters, input_names, caller=caller)

    async def _get(self) -> "ChatPlanner":
        async with self._creation_lock:
            if self._planner is None:
                self._planner = await asyncio.to_thread(self._create)
            return self._planner
