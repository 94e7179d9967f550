"""The origin of a request: ids for the log, and its place in a trace. PURE.

These values don't affect the response, so an invalid one is ignored rather than refused.
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
    """Each field is empty if it is unknown."""

    id: str = ""
    """The id of the gRPC request."""
    request_id: str = ""
    """The id of the client's HTTP request."""
    traceparent: str = ""
    tracestate: str = ""


UNKNOWN_ORIGIN = Origin()


def read_origin(request: ModelInferRequest, metadata: Metadata = ()) -> Origin:
    """Reads the origin of a request. `metadata`: the call's metadata, if the call carries only this request."""
    headers = {name: value for name, value in metadata if isinstance(value, str)}
    for header, parameter in contract.HEADER_PARAMETERS.items():
        if parameter in request.parameters:
            headers[header] = request.parameters[parameter].string_param
    parent = trace_context.parent(headers.get(contract.METADATA_TRACEPARENT, ""))
    return Origin(
        _valid_id(request.id),
        _valid_id(headers.get(contract.METADATA_REQUEST_ID, "")),
        parent,
        trace_context.state(headers.get(contract.METADATA_TRACESTATE, "")) if parent else "",
    )


def _valid_id(id: str) -> str:
    """Returns the id, or an empty string if it has characters that don't belong in a log line."""
    return id if _ID.fullmatch(id) else ""
