"""Paths to values in JSON: names and positions with dots, `[]` for all elements, `[name=value]` for some. PURE."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from anyserve_worker.pipelines.http_api.schema import Place, Places

_STEP = re.compile(r"(?:([^.\[\]]+))?((?:\[[^\[\]]*\])*)")
_FILTER = re.compile(r"\[(?:([^=!\[\]]+)(!?=)([^\[\]]*))?\]")


@dataclass(frozen=True, slots=True)
class _Each:
    """Elements of a list; with a name, those whose value there has this text, or, if `negated`, another."""

    name: str = ""
    text: str = ""
    negated: bool = False

    def matches(self, element: Any) -> bool:
        if not self.name:
            return True
        value = element.get(self.name) if isinstance(element, dict) else None
        return (as_text(value) == self.text) != self.negated


class JsonPath:
    def __init__(self, source: str) -> None:
        """Raises ValueError."""
        self._steps: list[str | _Each] = []
        for part in source.split("."):
            step = _STEP.fullmatch(part)
            if step is None or not part:
                raise ValueError(f"{source!r} is not a path")
            if step[1]:
                self._steps.append(step[1])
            for text in re.findall(r"\[[^\[\]]*\]", step[2]):
                found = _FILTER.fullmatch(text)
                if found is None:
                    raise ValueError(f"{source!r} is not a path: {text!r} must be [], [name=value] or [name!=value]")
                self._steps.append(_Each(found[1] or "", found[3] or "", found[2] == "!="))

    def values(self, root: Any) -> list[Any]:
        """The values at the path, without null."""
        values = [root]
        for step in self._steps:
            values = list(_next(values, step))
        return values

    def first(self, root: Any) -> Any:
        """The first value at the path; None: there is none."""
        values = self.values(root)
        return values[0] if values else None


def _next(values: Iterable[Any], step: str | _Each) -> Iterator[Any]:
    for value in values:
        if isinstance(step, _Each):
            if isinstance(value, list):
                yield from (element for element in value if element is not None and step.matches(element))
            continue
        found = None
        if isinstance(value, dict):
            found = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
            found = value[int(step)]
        if found is not None:
            yield found


@contextmanager
def named(key: str) -> Iterator[None]:
    """Adds the key whose value is read to a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def as_text(value: Any) -> str:
    """The text of a value as TOML and JSON write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


class Requirement:
    """A condition on an object."""

    def __init__(self, condition: Mapping[str, Any]) -> None:
        """Raises ValueError."""
        self._values = [(JsonPath(path), value) for path, value in condition.items()]

    def __bool__(self) -> bool:
        return bool(self._values)

    def is_met(self, root: Any) -> bool:
        return all(
            any(found == value and isinstance(found, bool) == isinstance(value, bool) for found in path.values(root))
            for path, value in self._values
        )


class Locations:
    """Places, in order."""

    def __init__(self, places: Places) -> None:
        """Raises ValueError."""
        self._places = [
            (JsonPath(place.path), Requirement(place.where)) if isinstance(place, Place) else (JsonPath(place), None)
            for place in (places if isinstance(places, list) else [places])
        ]

    def values(self, root: Any) -> Iterator[Any]:
        """The values at all places, without null."""
        for path, requirement in self._places:
            if requirement is None or requirement.is_met(root):
                yield from path.values(root)
