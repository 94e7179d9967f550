"""Answers messages that can't be parsed, or have too many parts, with INVALID_ARGUMENT, and calls that fail
unexpectedly with INTERNAL.

grpc itself would answer UNKNOWN, with the text of the exception, and log a traceback for each.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from anyserve_worker.service.message_parts import MAX_NUMBERS, MAX_PARTS, has_too_many

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_UNPARSABLE = object()
"""Stands for such a message: a deserializer's exception would reach grpc, not the handler."""


class UnparsableMessageInterceptor(grpc.aio.ServerInterceptor):
    """Guards the methods of all services."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}
        """Guarded handlers by method."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:  # There is no such method.
                return handler
            self._handlers[method] = _guard(handler, method)
        return self._handlers[method]


def _guard(handler: Any, method: str) -> Any:
    async def refuse(context: Context) -> None:
        log.debug("a message to %s cannot be parsed", method)
        problem = f"the message cannot be parsed, or has more than {MAX_PARTS} parts or {MAX_NUMBERS} integers"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)

    def parse(message: bytes) -> Any:
        if has_too_many(message):
            raise DecodeError
        return handler.request_deserializer(message)

    def deserialize(message: bytes) -> Any:
        try:
            return parse(message)
        except DecodeError:
            return _UNPARSABLE

    async def answer(request: Any, context: Context) -> Any:
        if request is _UNPARSABLE:
            await refuse(context)
        try:
            return await handler.unary_unary(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("a call of %s failed", method)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    async def watch(request: Any, context: Context) -> None:
        if request is _UNPARSABLE:
            await refuse(context)
        await handler.unary_stream(request, context)

    async def stream(requests: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async with aclosing(handler.stream_stream(requests, context)) as responses:
                async for response in responses:
                    yield response
        except DecodeError:
            await refuse(context)

    serialize = handler.response_serializer
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(answer, deserialize, serialize)
    if handler.unary_stream:
        assert not isasyncgenfunction(handler.unary_stream)  # It writes its responses itself.
        return grpc.unary_stream_rpc_method_handler(watch, deserialize, serialize)
    return grpc.stream_stream_rpc_method_handler(stream, parse, serialize)
