"""Measures unary calls through the sidecar and directly to its backend, in turn. Reads its orders as JSON from stdin.

python -m benchmarks.latency < orders.json > seconds.json
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from typing import cast

import grpc

from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest

METHOD = "/inference.GRPCInferenceService/ModelInfer"
WARM_UP = 100


class Direct:
    """Sends the same request directly to the backend, as bytes."""

    def __init__(self, port: int, model: str, prompt: str) -> None:
        # Without the environment's proxy: the backend is on this machine.
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])
        self._call = cast(Callable[[bytes], bytes], channel.unary_unary(METHOD))
        request = ModelInferRequest(model_name=model)
        tensors.add_input(request, contract.PROMPT, [prompt.encode()])
        tensors.add_input(request, contract.MAX_TOKENS, [1])
        self._message = request.SerializeToString()

    def call(self) -> None:
        self._call(self._message)


class OverHTTP:
    def __init__(self, port: int, model: str, prompt: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = json.dumps({"model": model, "prompt": prompt, "max_tokens": 1}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def call(self) -> None:
        self._socket.sendall(self._message)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(answer.decode(errors="replace"))
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        while len(body) < length:
            body += self._receive()

    def _receive(self) -> bytes:
        if piece := self._socket.recv(65536):
            return piece
        sys.exit("the sidecar closed the connection")


def main() -> None:
    orders = json.load(sys.stdin)
    ways: dict[str, Direct | OverHTTP] = {
        "direct": Direct(orders["grpc_port"], orders["model"], orders["prompt"]),
        "http": OverHTTP(orders["port"], orders["model"], orders["prompt"]),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP + orders["calls"]):
        for name, way in ways.items():
            began = time.perf_counter()
            way.call()
            if number >= WARM_UP:
                taken[name].append(time.perf_counter() - began)
    json.dump(taken, sys.stdout)


if __name__ == "__main__":
    main()
