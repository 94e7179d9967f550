"""How much one rendering of a chat template may spend: processor time, and characters made.

PURE: the clock is passed in. The sandbox reports to the budget whatever takes time or memory; the budget raises when
there is none left. All characters that are made count, not only those that are kept, so memory is bounded as well.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateRuntimeError
from jinja2.utils import Namespace

_TICKS_PER_LOOK = 512
"""Ticks (about a microsecond each) between two looks at the clock."""
_CHARACTERS_PER_TICK = 1024
CONTAINERS: tuple[Any, ...] = (list, tuple, dict, type({}.keys()), type({}.values()), type({}.items()))
_OTHER = 64
"""Written size of any other value, roughly."""
_ITEM = 16
"""What an item of a list takes, in characters."""

MAX_INTEGER_BITS = 8192


class LimitExceeded(TemplateRuntimeError):
    pass


class Budget:
    """`clock` gives seconds from any start; `seconds` and `characters` are what may be spent from now on."""

    def __init__(self, clock: Callable[[], float], seconds: float, characters: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._deadline = clock() + seconds
        self._characters = self._left = characters
        self._ticks = 0
        # By id; the value is kept so that its id stays its own. Nothing in a template can change a container.
        self._weights: dict[int, tuple[object, int]] = {}

    def tick(self, ticks: int = 1) -> None:
        self._ticks += ticks
        if self._ticks >= _TICKS_PER_LOOK:
            self._ticks = 0
            if self._clock() > self._deadline:
                raise LimitExceeded(f"it took longer than {self._seconds:g} s")

    def spend(self, characters: int) -> None:
        """Called before the characters are made."""
        self._left -= characters
        if self._left < 0:
            raise LimitExceeded(f"it made more than {self._characters} characters")
        self.tick(1 + characters // _CHARACTERS_PER_TICK)

    def spend_on(self, value: Any, times: int = 1) -> None:
        """Called for so many copies of `value` itself, not of what it contains."""
        if isinstance(value, str | bytes):
            self.spend(len(value) * times)
        elif isinstance(value, CONTAINERS):
            self.spend(_ITEM * len(value) * times)
        else:
            self.tick()

    def spend_on_items(self, count: int) -> None:
        """Called before a list of `count` items is made."""
        self.spend(_ITEM * count)

    def look_at(self, value: object) -> None:
        """Called before work on all that `value` contains, such as a comparison."""
        if isinstance(value, (str, bytes, *CONTAINERS)):
            self.tick(1 + self.weigh(value) // _CHARACTERS_PER_TICK)

    def weigh(self, value: Any) -> int:
        """Roughly, the characters of `value` when it is written out.

        A list that holds another one twice writes it twice, and so on: thirty small lists can have a billion
        characters. Weights are remembered, so that finding that out takes thirty steps. Raises LimitExceeded.
        """
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, Namespace):
            raise LimitExceeded("a namespace can't be inside a value that is written or compared")
        if not isinstance(value, CONTAINERS):
            return _OTHER
        if (known := self._weights.get(id(value))) is not None:
            return known[1]
        self.tick(1 + len(value))
        weight = _ITEM
        for item in value:
            weight += _ITEM + self.weigh(item)
        if isinstance(value, dict):
            for item in value.values():
                weight += self.weigh(item)
        if weight > self._characters:
            raise LimitExceeded(f"it made a value of more than {self._characters} characters")
        self._weights[id(value)] = (value, weight)
        return weight


CURRENT: ContextVar[Budget] = ContextVar("budget")
"""The budget of the rendering that runs in this context. (A compiled template is shared, a budget is not.)"""


class Metered:
    """Iterates with a tick for each item."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        """Raises TypeError where `items` has no length, as `loop.length` expects."""
        return len(self._items)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        tick = CURRENT.get().tick
        for item in self._items:
            tick()
            yield item


def check_integers(operator: str, left: object, right: object) -> None:
    """Called before `left operator right`, for the two operators that can make integers much longer."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_INTEGER_BITS:
            raise LimitExceeded(f"it made an integer of more than {MAX_INTEGER_BITS} bits")
