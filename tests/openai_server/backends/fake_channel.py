"""gRPC's channel to a backend, as a script."""

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
    """One ModelStreamInfer: what was sent on it, and what it answers."""

    def __init__(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        self.sent = asyncio.Queue[ModelInferRequest]()
        self.answers = asyncio.Queue[Any]()
        """Responses; an exception, which is raised; None, which is the end."""
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
    """`answers` by the name of the method: a response, or an exception, which is raised."""

    def __init__(self, *extensions: str) -> None:
        self.answers: dict[str, Any] = {
            "ServerReady": ServerReadyResponse(ready=True),
            "ServerMetadata": ServerMetadataResponse(extensions=extensions),
            "ModelInfer": ModelInferResponse(id="called"),
        }
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        """Method, request and keyword arguments."""
        self.may_answer = asyncio.Event()
        """Calls wait for it."""
        self.may_answer.set()
        self.streams = asyncio.Queue[Stream]()
        self.closed: list[float | None] = []
        self._state = READY
        self._change = asyncio.Event()

    def methods(self, name: str) -> list[Any]:
        """The requests of the calls of one method."""
        return [request for method, request, _ in self.calls if method == name]

    # ---- What a stub uses

    def unary_unary(self, path: str, **_: object) -> Any:
        return partial(self._call, path.rpartition("/")[2])

    def stream_stream(self, path: str, **_: object) -> Any:
        return self._stream

    async def _call(self, method: str, request: Any, **how: Any) -> Any:
        self.calls.append((method, request, how))
        await self.may_answer.wait()
        answer = self.answers[method]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _stream(self, requests: AsyncIterator[ModelInferRequest], **how: Any) -> Stream:
        self.calls.append(("ModelStreamInfer", None, how))
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
    """Opens these channels, one after the other."""

    def __init__(self, *channels: FakeChannel) -> None:
        self._channels = list(channels)
        self.frequent_pings: list[bool] = []

    def open(self, target: str, name: str = "", *, frequent_pings: bool = False) -> aio.Channel:
        self.frequent_pings.append(frequent_pings)
        return cast(aio.Channel, self._channels.pop(0))
