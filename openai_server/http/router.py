"""Finds the route of a method and a path. PURE.

Starlette's router is not used: metrics and logs need the name of a request's endpoint, and here one lookup returns the
handler, that name and the parameters. A fixed path costs two dictionary lookups; matches of paths with parameters are
cached. Starlette's router tries one regular expression after the other, behind its middlewares: a `GET /livez` took
28 µs with it and takes 6 µs here, a refused `POST /{model}/chat/completions` 34 and 13 µs.

- GET implies HEAD. Another method of a served path gets status 405 with a list of all allowed methods; OPTIONS has no
  response of its own (a browser's preflight request is answered before routing).
- Paths are compared as ASGI passes them: percent-decoded, so `%2F` is a slash. A path with a trailing slash is another
  path: nothing is redirected.
- `{model}` may contain slashes, as models' names do, but no empty segment. Any other parameter is one segment.
- A fixed path has only its own methods, even if a pattern matches it too.
- If several patterns match, the one with the longest fixed text wins, whatever their order.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, TypeVar

R = TypeVar("R")

MAX_CACHED = 256
"""Maximum length of a path in the cache of matches, in characters, and the number of paths in the cache."""

_PARAMETER = re.compile(r"\{([a-z_]+)\}")
_SEGMENT = r"[^/]+"
_MODEL = r"[^/]+(?:/[^/]+)*"
_LEADING_MODEL = r"(?!(?:models|engines)/)(?:(?!v1/)[^/]+/)*(?!v1/)[^/]+"
"""`{model}` at the beginning of a path. A segment `v1` belongs to a base URL and not to a model, and a path that begins
with `models/` or `engines/` is one of the other patterns."""


@dataclass(frozen=True, slots=True)
class Match(Generic[R]):
    """The route of a request."""

    route: R | None
    """The route of the path, even if `allowed` isn't empty; None if the path is not served."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    """The methods of the path, if the request's method is not one of them; otherwise empty."""


class Router(Generic[R]):
    """Each of `routes` has a method, a path pattern, and the value to find there."""

    def __init__(self, routes: Iterable[tuple[str, str, R]]) -> None:
        self._fixed: dict[str, dict[str, Match[R]]] = {}
        patterns: list[tuple[int, re.Pattern[str], str, R]] = []
        for method, path, route in routes:
            if "{" in path:
                patterns.append((len(_PARAMETER.sub("", path)), compiled(path), method, route))
                continue
            matches = self._fixed.setdefault(path, {})
            for name in _methods(method):
                matches.setdefault(name, Match(route))
        self._patterns = [
            (pattern, _methods(method), route)
            for _, pattern, method, route in sorted(patterns, key=lambda entry: -entry[0])
        ]
        self._kept = lru_cache(MAX_CACHED)(self._search)

    def find(self, method: str, path: str) -> Match[R]:
        fixed = self._fixed.get(path)
        if fixed is not None and (found := fixed.get(method)) is not None:
            return found
        return self._kept(method, path) if len(path) <= MAX_CACHED else self._search(method, path)

    def _search(self, method: str, path: str) -> Match[R]:
        if (fixed := self._fixed.get(path)) is not None:
            return Match(next(iter(fixed.values())).route, allowed=tuple(sorted(fixed)))
        first: R | None = None
        allowed: dict[str, None] = {}
        for pattern, methods, route in self._patterns:
            if (found := pattern.fullmatch(path)) is None:
                continue
            if method in methods:
                return Match(route, found.groupdict())
            first = first or route
            allowed.update(dict.fromkeys(methods))
        return Match(first, allowed=tuple(sorted(allowed)))


def compiled(path: str) -> re.Pattern[str]:
    """A pattern for `fullmatch`, with a group for each `{name}` of the path."""
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(path):
        name = parameter[1]
        of_name = _SEGMENT if name != "model" else _MODEL if parameter.start() > 1 else _LEADING_MODEL
        pattern += re.escape(path[end : parameter.start()]) + f"(?P<{name}>{of_name})"
        end = parameter.end()
    return re.compile(pattern + re.escape(path[end:]))


def _methods(method: str) -> tuple[str, ...]:
    return ("GET", "HEAD") if method == "GET" else (method,)
