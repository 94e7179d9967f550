"""Names of endpoints that metrics and logs use: few and fixed, whatever clients ask for. PURE."""

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import Route

OTHER = "other"
"""What is no endpoint of ours."""

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
OPERATIONS = {CHAT: "chat", COMPLETIONS: "text_completion", EMBEDDINGS: "embeddings"}
"""Their names in OpenTelemetry's conventions for generative AI, which know no others of ours."""

UNLOGGED = {"/livez", "/readyz", "/health", "/metrics"}
"""Asked every few seconds by machines: no access lines."""

MAX_CACHED = 256
"""Characters of a path that is kept with its name, and the number of such paths."""


class Endpoints:
    """The names are those of the routes, as the router picks them."""

    def __init__(self, routes: Iterable["Route"]) -> None:
        self._routes = list(routes)
        self._fixed = {
            (method, route.path): route.name
            for route in reversed(self._routes)
            if not route.param_convertors
            for method in route.methods or ()
        }
        self._kept = lru_cache(MAX_CACHED)(self._matched)

    def name(self, method: str, path: str) -> str:
        """The name of the endpoint that answers, also where it only refuses the method."""
        if found := self._fixed.get((method, path)):
            return found
        return self._kept(method, path) if len(path) <= MAX_CACHED else self._matched(method, path)

    def _matched(self, method: str, path: str) -> str:
        matching = [route for route in self._routes if route.path_regex.match(path)]
        allowed = [route for route in matching if method in (route.methods or ())]
        return next((route.name for route in allowed or matching), OTHER)
