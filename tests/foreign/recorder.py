"""`python -m tests.foreign.recorder LISTEN SERVER FILE [bare]`: a proxy between sidecar and server that records calls.

LISTEN and SERVER are ports on loopback. A line of FILE is a call as JSON, written when the call has ended: `rpc`, the
`requests` and `responses` that it carried, and its status. With `bare`, streams have responses of type
ModelInferResponse, as MLServer's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from tests.wire import backend_messages
from tests.wire.backend_replay import SERVICE


class Recorder(grpc.GenericRpcHandler):
    def __init__(self, channel: aio.Channel, path: Path, kind: str) -> None:
        self._channel, self._path, self._kind = channel, path, kind
        self._streaming: Any = channel.stream_stream(f"{SERVICE}ModelStreamInfer")

    def _unary(self, rpc: str) -> Any:
        return self._channel.unary_unary(f"{SERVICE}{rpc}")

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        rpc = details.method.removeprefix(SERVICE)
        if rpc == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)

        async def forward(data: bytes, context: Any) -> bytes:
            responses: list[bytes] = []
            try:
                responses.append(await self._unary(rpc)(data))
            except aio.AioRpcError as error:
                self._write(rpc, [data], [], error)
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
            self._write(rpc, [data], responses)
            return responses[0]

        return grpc.unary_unary_rpc_method_handler(forward)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        sent: list[bytes] = []
        received: list[bytes] = []

        async def forwarded() -> AsyncIterator[bytes]:
            async for data in requests:
                sent.append(data)
                yield data

        try:
            async for response in self._streaming(forwarded()):
                received.append(response)
                yield response
        except aio.AioRpcError as error:
            self._write("ModelStreamInfer", sent, received, error)
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        except (asyncio.CancelledError, GeneratorExit):
            self._write("ModelStreamInfer", sent, received, is_cancelled=True)
            raise
        self._write("ModelStreamInfer", sent, received)

    def _write(
        self,
        rpc: str,
        requests: list[bytes],
        responses: list[bytes],
        error: aio.AioRpcError | None = None,
        is_cancelled: bool = False,
    ) -> None:
        request_type = backend_messages.request_type(rpc)
        response_type = backend_messages.response_type(rpc, self._kind)
        call: dict[str, Any] = {
            "rpc": rpc,
            "requests": [backend_messages.to_json(request_type.FromString(data)) for data in requests],
            "responses": [backend_messages.to_json(response_type.FromString(data)) for data in responses],
        }
        if error is not None:
            call |= {"code": error.code().name, "details": error.details() or ""}
        if is_cancelled:
            call["is_cancelled"] = True  # by the sidecar
        with self._path.open("a") as file:
            file.write(json.dumps(call) + "\n")


async def main(listen: int, port: int, path: Path, kind: str) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        server = aio.server(handlers=[Recorder(channel, path, kind)])
        server.add_insecure_port(f"127.0.0.1:{listen}")
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    kind = backend_messages.BARE if "bare" in sys.argv[4:] else ""
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), kind))
