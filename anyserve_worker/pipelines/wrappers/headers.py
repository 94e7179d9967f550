"""The headers that a wrapper gets if its method has the parameter `headers`."""

from collections.abc import Iterator, Mapping
from typing import Any


def request_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Starlette's Headers where that package is installed, since wrappers written for hayhooks declare it."""
    try:
        from starlette.datastructures import Headers
    except ImportError:
        return CaseInsensitive(headers)
    return Headers(headers=dict(headers))


class CaseInsensitive(Mapping[str, str]):
    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name.lower(): value for name, value in values.items()}

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: Any) -> bool:
        return isinstance(name, str) and name.lower() in self._values
