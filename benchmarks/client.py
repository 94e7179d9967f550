"""Sends a small request to a server on this machine, without a proxy. For readiness and warm-up, not for measuring."""

from __future__ import annotations

import http.client
import json
from typing import Any

HOST = "127.0.0.1"


def post(port: int, path: str, body: dict[str, Any], timeout_s: float) -> tuple[int, str]:
    """Returns status and body. Raises OSError if there is no response."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(str(error) or type(error).__name__) from None
    finally:
        connection.close()
