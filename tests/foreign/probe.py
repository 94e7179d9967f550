"""`python -m tests.foreign.probe PORT`: calls a server directly, without a sidecar.

Reads calls from the standard input, one JSON object a line: `rpc`, and `request` in protobuf's JSON form. Writes a JSON
object a line: `responses`, `code` and `details` of the call's status, and the seconds it took.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import grpc
from google.protobuf import json_format

from protos import grpc_predict_v2_pb2 as messages

SECONDS = 20.0
SERVICE = "inference.GRPCInferenceService"


def call(channel: grpc.Channel, rpc: str, request: dict[str, Any]) -> dict[str, Any]:
    """Returns the server's answer. `BareStream` is ModelStreamInfer with MLServer's type of response."""
    is_stream = rpc in ("ModelStreamInfer", "BareStream")
    method = "ModelStreamInfer" if is_stream else rpc
    request_type = getattr(messages, "ModelInferRequest" if is_stream else f"{method}Request")
    response_type = getattr(messages, "ModelInferResponse" if rpc == "BareStream" else f"{method}Response")
    path, data = f"/{SERVICE}/{method}", json_format.ParseDict(request, request_type()).SerializeToString()
    begun = time.monotonic()
    responses: list[bytes] = []
    code, details = "OK", ""
    try:
        if is_stream:
            responses.extend(channel.stream_stream(path)(iter([data]), timeout=SECONDS))
        else:
            responses.append(channel.unary_unary(path)(data, timeout=SECONDS))
    except grpc.RpcError as error:
        code, details = error.code().name, error.details() or ""
    return {
        "responses": [as_dict(response_type.FromString(response)) for response in responses],
        "code": code,
        "details": details,
        "seconds": round(time.monotonic() - begun, 3),
    }


def as_dict(message: Any) -> dict[str, Any]:
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


if __name__ == "__main__":
    with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
        for line in sys.stdin:
            print(json.dumps(call(channel, **json.loads(line))), flush=True)
