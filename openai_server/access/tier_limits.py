"""Bounds the requests of each caller in the tiers `priority` and `flex`. PURE."""

from collections import Counter

from openai_server.core.errors import NoFlexCapacity
from openai_server.core.tiers import DEFAULT, FLEX, PRIORITY, TIERS, Tier


class TierLimits:
    """`max_priority` and `max_flex`: requests of a caller in the tier at the same time."""

    def __init__(self, *, max_priority: int, max_flex: int) -> None:
        self._max_priority = max_priority
        self._max_flex = max_flex
        self._running: Counter[tuple[str, str]] = Counter()
        """Requests by caller and name of the tier; callers without any are left out."""

    def take(self, caller: str, name: str, *, has_client: bool = True) -> Tier:
        """The tier in which a request that requests the tier `name` runs, which must be given back if it isn't DEFAULT.
        Flex requests without a client, such as background responses, have no limit but that of all background work.

        Raises NoFlexCapacity.
        """
        tier = TIERS.get(name, DEFAULT)
        if not _is_counted(tier, has_client):
            return tier
        key = caller, tier.name
        if tier is PRIORITY and self._running[key] >= self._max_priority:
            return DEFAULT
        if tier is FLEX and self._running[key] >= self._max_flex:
            raise NoFlexCapacity
        self._running[key] += 1
        return tier

    def give_back(self, caller: str, tier: Tier, *, has_client: bool = True) -> None:
        if _is_counted(tier, has_client):
            key = caller, tier.name
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]


def _is_counted(tier: Tier, has_client: bool) -> bool:
    return tier is PRIORITY or (tier is FLEX and has_client)
