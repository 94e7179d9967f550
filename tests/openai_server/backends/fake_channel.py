"""A fake of gRPC's channel to a backend, with scripted answers."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import grpc
from grpc import aio

from openai_server.backends.channel import Dialer
from protos.grpc_predict_v2_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

READY, IDLE = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE


def rpc_error(status: str, message: str = "no") -> aio.AioRpcError:
    return aio.AioRpcError(grpc.StatusCode[status], aio.Metadata(), aio.Metadata(), details=message)


class Stream:
    """One ModelStreamInfer call, with its sent requests and scripted responses."""

    def __init__(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        self.sent = asyncio.Queue[ModelInferRequest]()
        self.answers = asyncio.Queue[Any]()
        """Responses to return, exceptions to raise, or None to end the stream."""
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.is_cancelled = False
        self._sender = asyncio.create_task(self._send(requests))

    async def _send(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        async for request in requests:
            await self.may_send.wait()
            self.sent.put_nowait(request)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (answer := await self.answers.get()) is not None:
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def cancel(self) -> None:
        self.is_cancelled = True
        self._sender.cancel()


class FakeChannel:
    """A channel. `answers` has a response, or an exception to raise, by method name."""

    def __init__(self, *extensions: str) -> None:
        self.answers: dict[str, Any] = {
            "ServerReady": ServerReadyResponse(ready=True),
            "ServerMetadata": ServerMetadataResponse(extensions=extensions),
            "ModelInfer": ModelInferResponse(id="called"),
        }
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        """(method, request, keyword arguments) of each call."""
        self.may_answer = asyncio.Event()
        """Calls wait for this event."""
        self.may_answer.set()
        self.streams = asyncio.Queue[Stream]()
        self.closed: list[float | None] = []
        self._state = READY
        self._change = asyncio.Event()

    def methods(self, name: str) -> list[Any]:
        """Returns the requests of all calls of a method."""
        return [request for method, request, _ in self.calls if method == name]

    # ---- Methods that stubs use

    def unary_unary(self, path: str, **_: object) -> Any:
        return partial(self._call, path.rpartition("/")[2])

    def stream_stream(self, path: str, **_: object) -> Any:
        return self._stream

    async def _call(self, method: str, request: Any, **options: Any) -> Any:
        self.calls.append((method, request, options))
        await self.may_answer.wait()
        answer = self.answers[method]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _stream(self, requests: AsyncIterator[ModelInferRequest], **options: Any) -> Stream:
        self.calls.append(("ModelStreamInfer", None, options))
        stream = Stream(requests)
        self.streams.put_nowait(stream)
        return stream

    # ---- The connection

    def set_state(self, state: grpc.ChannelConnectivity) -> None:
        self._state = state
        self._change.set()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._state

    async def wait_for_state_change(self, state: grpc.ChannelConnectivity) -> None:
        while self._state is state:
            self._change.clear()
            await self._change.wait()

    async def close(self, grace: float | None = None) -> None:
        self.closed.append(grace)


class FakeDialer(Dialer):
    """Opens the given channels in order."""

    def __init__(self, *channels: FakeChannel) -> None:
        self._channels = list(channels)
        self.frequent_pings: list[bool] = []

    def open(self, target: str, name: str = "", *, frequent_pings: bool = False) -> aio.Channel:
        self.frequent_pings.append(frequent_pings)
        return cast(aio.Channel, self._channels.pop(0))
