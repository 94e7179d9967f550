"""`python -m tests.foreign.probe PORT`: calls a server directly, without a sidecar.

Reads calls from the standard input, one JSON object a line: `rpc`, and `request` in the form of
tests/wire/backend_messages.py. Writes a JSON object a line: the `responses`, and the status as `code` and `details`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc

from tests.wire import backend_messages
from tests.wire.backend_replay import SERVICE

SECONDS = 20.0
"""Limit of a call."""
BARE_STREAM = "BareStream"
"""Stands for ModelStreamInfer with responses of type ModelInferResponse."""


def call(channel: Any, rpc: str, request: dict[str, Any]) -> dict[str, Any]:
    """Returns the server's answer."""
    method = "ModelStreamInfer" if rpc == BARE_STREAM else rpc
    kind = backend_messages.BARE if rpc == BARE_STREAM else ""
    response_type = backend_messages.response_type(method, kind)
    data = backend_messages.from_json(request, backend_messages.request_type(method)).SerializeToString()
    responses: list[bytes] = []
    status = {"code": "OK", "details": ""}
    try:
        if method == "ModelStreamInfer":
            responses.extend(channel.stream_stream(f"{SERVICE}{method}")(iter([data]), timeout=SECONDS))
        else:
            responses.append(channel.unary_unary(f"{SERVICE}{method}")(data, timeout=SECONDS))
    except grpc.RpcError as error:
        status = {"code": error.code().name, "details": error.details() or ""}
    return {
        "responses": [backend_messages.to_json(response_type.FromString(message)) for message in responses],
        **status,
    }


if __name__ == "__main__":
    with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
        for line in sys.stdin:
            print(json.dumps(call(channel, **json.loads(line)), ensure_ascii=False), flush=True)
