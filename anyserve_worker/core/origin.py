"""Whom a request is for: ids for the log, and its place in a trace. PURE.

They have no effect on an answer, so what makes no sense is left out rather than refused.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from anyserve_common import trace_context
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest

_ID = re.compile(r"[!-~]{1,128}", re.ASCII)

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Each is empty if it is unknown."""

    id: str = ""
    """Of the gRPC request."""
    request_id: str = ""
    """What the HTTP client calls it."""
    traceparent: str = ""
    tracestate: str = ""


NOBODY = Origin()


def origin(request: ModelInferRequest, metadata: Metadata = ()) -> Origin:
    """`metadata` is that of a call which is for this request alone."""
    told = {name: value for name, value in metadata if isinstance(value, str)}
    for header, parameter in contract.HEADER_PARAMETERS.items():
        if parameter in request.parameters:
            told[header] = request.parameters[parameter].string_param
    parent = trace_context.parent(told.get(contract.METADATA_TRACEPARENT, ""))
    return Origin(
        _sane(request.id),
        _sane(told.get(contract.METADATA_REQUEST_ID, "")),
        parent,
        trace_context.state(told.get(contract.METADATA_TRACESTATE, "")) if parent else "",
    )


def _sane(id: str) -> str:
    return id if _ID.fullmatch(id) else ""
