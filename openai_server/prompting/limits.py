"""The budget of one rendering of a chat template: processor time, and characters created.

PURE: the clock is passed in. The sandbox charges everything that takes time or memory to the budget, which raises
LimitExceeded when it is used up. It counts all characters created, not only those kept, so memory is bounded too.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateRuntimeError
from jinja2.utils import Namespace

_TICKS_PER_CHECK = 512
"""Ticks (about a microsecond each) between two checks of the clock."""
_CHARACTERS_PER_TICK = 1024
CONTAINERS: tuple[Any, ...] = (list, tuple, dict, type({}.keys()), type({}.values()), type({}.items()))
_OTHER_SIZE = 64
"""Approximate size of any other value, in characters."""
_ITEM_SIZE = 16
"""Size of an item in a list, in characters."""

MAX_INTEGER_BITS = 8192


class LimitExceeded(TemplateRuntimeError):
    pass


class Budget:
    """A budget of `seconds` and `characters`, which starts now. `clock` returns seconds from an arbitrary start."""

    def __init__(self, clock: Callable[[], float], seconds: float, characters: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._deadline = clock() + seconds
        self._characters = self._left = characters
        self._ticks = 0
        # By id. The value is kept so that its id isn't reused. Templates can't change a container.
        self._weights: dict[int, tuple[object, int]] = {}

    def tick(self, ticks: int = 1) -> None:
        self._ticks += ticks
        if self._ticks >= _TICKS_PER_CHECK:
            self._ticks = 0
            if self._clock() > self._deadline:
                raise LimitExceeded(f"it took longer than {self._seconds:g} s")

    def spend(self, characters: int) -> None:
        """Call it before creating this number of characters."""
        self._left -= characters
        if self._left < 0:
            raise LimitExceeded(f"it created more than {self._characters} characters")
        self.tick(1 + characters // _CHARACTERS_PER_TICK)

    def spend_on(self, value: Any, times: int = 1) -> None:
        """Charges `times` shallow copies of `value`."""
        if isinstance(value, str | bytes):
            self.spend(len(value) * times)
        elif isinstance(value, CONTAINERS):
            self.spend(_ITEM_SIZE * len(value) * times)
        else:
            self.tick()

    def spend_on_items(self, count: int) -> None:
        """Call it before creating a list of `count` items."""
        self.spend(_ITEM_SIZE * count)

    def look_at(self, value: object) -> None:
        """Call it before work on all contents of `value`, such as a comparison."""
        if isinstance(value, (str, bytes, *CONTAINERS)):
            self.tick(1 + self.weigh(value) // _CHARACTERS_PER_TICK)

    def weigh(self, value: Any) -> int:
        """The approximate number of characters of `value` when written out. Raises LimitExceeded.

        A list that contains another one twice writes it twice, so thirty small nested lists can have a billion
        characters. Weights are cached, so that calculating that takes thirty steps.
        """
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, Namespace):
            raise LimitExceeded("a namespace can't be inside a value that is written or compared")
        if not isinstance(value, CONTAINERS):
            return _OTHER_SIZE
        if (cached := self._weights.get(id(value))) is not None:
            return cached[1]
        self.tick(1 + len(value))
        weight = _ITEM_SIZE
        for item in value:
            weight += _ITEM_SIZE + self.weigh(item)
        if isinstance(value, dict):
            for item in value.values():
                weight += self.weigh(item)
        if weight > self._characters:
            raise LimitExceeded(f"it created a value of more than {self._characters} characters")
        self._weights[id(value)] = (value, weight)
        return weight


CURRENT: ContextVar[Budget] = ContextVar("budget")
"""The budget of the rendering in this context. (Renderings share compiled templates, but not budgets.)"""


class Metered:
    """Iterates over items, and charges a tick for each."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        """Raises TypeError if `items` has no length, as `loop.length` expects."""
        return len(self._items)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        tick = CURRENT.get().tick
        for item in self._items:
            tick()
            yield item


def check_integers(operator: str, left: object, right: object) -> None:
    """Call it before `left operator right`, for the operators whose results can be much longer integers."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_INTEGER_BITS:
            raise LimitExceeded(f"it created an integer of more than {MAX_INTEGER_BITS} bits")
