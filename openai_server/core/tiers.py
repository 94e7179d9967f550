"""Service tiers: how a request shares slots and the engine with others. PURE."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Literal, NamedTuple

from protos import contract

RequestedTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]
"""The values of `service_tier` in OpenAI's APIs."""


class Urgency(IntEnum):
    """The class of a request in the queue for a slot: a free slot goes to the smallest number."""

    URGENT = 0
    ORDINARY = 1
    BACKGROUND = 2


class Tier(NamedTuple):
    name: str
    """The value of `service_tier` in the response."""
    urgency: Urgency = Urgency.ORDINARY
    priority: int | None = None
    """The engine's priority of the request; None: that of its field `priority`."""
    is_timed: bool = True
    """Whether the server's time limit for a call to the backend applies."""

    def priority_of(self, requested: int | None) -> int | None:
        """The engine's priority of a request with the field `priority`; None: the default. Background work may yield to
        other background work."""
        if self.priority is None:
            return requested
        return max(self.priority, requested or 0) if self.urgency is Urgency.BACKGROUND else self.priority


DEFAULT = Tier("default")
FLEX = Tier("flex", Urgency.BACKGROUND, contract.FLEX_PRIORITY)
PRIORITY = Tier("priority", Urgency.URGENT, contract.URGENT_PRIORITY)
BATCH = Tier("default", Urgency.BACKGROUND, contract.BATCH_PRIORITY, is_timed=False)
"""The tier of the lines of batches, whatever they request. A line may wait in the engine for as long as others need it;
its batch has a time limit."""

TIERS: Mapping[str, Tier] = {"flex": FLEX, "priority": PRIORITY, "fast": PRIORITY, "ultrafast": PRIORITY}
"""The tiers that differ from DEFAULT, by requested tier. `fast` and `ultrafast` are OpenAI's other names."""
