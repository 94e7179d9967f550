"""Headers of a gateway's endpoint picker (the Gateway API's inference extension, llm-d). PURE.

The picker has used them to choose this server. Here the model's rewrite and the fairness id have an effect; the others
are passed on to the backend, which may be a router itself. An invalid value is ignored, since it has no effect on the
answer. The names before llm-d's are read as well.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from protos import contract

MODEL_REWRITE = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
"""The header that replaces the model of the body, and its older name."""
_TEXT = re.compile(rf"[!-~]{{1,{contract.MAX_ROUTING_VALUE}}}", re.ASCII)
_MILLISECONDS = re.compile(r"\d{1,9}(?:\.\d{1,6})?", re.ASCII)
_PASSED_ON: Mapping[str, tuple[str, re.Pattern[str]]] = {
    contract.METADATA_OBJECTIVE: ("x-gateway-inference-objective", _TEXT),
    contract.METADATA_FAIRNESS_ID: ("x-gateway-inference-fairness-id", _TEXT),
    contract.METADATA_SESSION_TOKEN: ("", _TEXT),
    contract.METADATA_SESSION_ID: ("", _TEXT),
    contract.METADATA_TTFT_TARGET: ("x-slo-ttft-ms", _MILLISECONDS),
    contract.METADATA_TPOT_TARGET: ("x-slo-tpot-ms", _MILLISECONDS),
}
"""Name → older name, empty if there is none, and the pattern of its values."""
_NAMES = frozenset(
    name.encode() for name in (*MODEL_REWRITE, *_PASSED_ON, *(old for old, _ in _PASSED_ON.values() if old))
)


class Routing(NamedTuple):
    """The values of these headers in one request."""

    model: str = ""
    """The model that replaces the request's; empty keeps it."""
    passed_on: tuple[tuple[str, str], ...] = ()
    """gRPC metadata for the backend: current names, and valid values."""

    @property
    def fairness_id(self) -> str:
        """The tenant to share capacity with; empty if there is none."""
        return next((value for name, value in self.passed_on if name == contract.METADATA_FAIRNESS_ID), "")


NO_ROUTING = Routing()


def routing(headers: Mapping[bytes, bytes]) -> Routing:
    """The routing of a request with these headers. Names are in lower case."""
    if _NAMES.isdisjoint(headers):
        return NO_ROUTING

    def value(name: str, old: str) -> str:
        return (headers.get(name.encode()) or headers.get(old.encode()) or b"").decode(errors="replace")

    passed_on = (
        (name, found) for name, (old, pattern) in _PASSED_ON.items() if pattern.fullmatch(found := value(name, old))
    )
    return Routing(value(*MODEL_REWRITE), tuple(passed_on))
