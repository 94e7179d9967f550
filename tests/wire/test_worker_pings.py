"""The worker's server, without a model, and a client that pings it as often as it may."""

import asyncio

import grpc
import pytest
from grpc import aio

from anyserve_worker.service.server import Worker
from anyserve_worker.service.server_options import ServerOptions
from openai_server.backends.channel import channel_options
from protos.grpc_predict_v2_pb2 import ServerMetadataRequest
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

PING_INTERVAL = 1.0
"""Seconds between two pings: contract.EXTENSION_PINGS."""
TOLERATED_EARLY_PINGS = 2
"""Early pings that gRPC tolerates by itself: the next early ping ends the connection and all its calls."""


@pytest.mark.slow
async def test_a_silent_connection_may_be_pinged_once_a_second() -> None:
    """A connection is silent while a long whole response is computed."""
    worker = await Worker.listen(ServerOptions((), ("127.0.0.1",), 0, 0, "info", 1))
    target = f"127.0.0.1:{worker.port}"
    options = [*channel_options(target, PING_INTERVAL), ("grpc.keepalive_permit_without_calls", 1)]
    try:
        async with aio.insecure_channel(target, options=options) as channel:
            await GRPCInferenceServiceStub(channel).ServerMetadata(ServerMetadataRequest())
            ready = grpc.ChannelConnectivity.READY
            assert channel.get_state() is ready
            with pytest.raises(TimeoutError):
                # The first ping is always allowed, and one more in case the clock is late.
                await asyncio.wait_for(
                    channel.wait_for_state_change(ready), (TOLERATED_EARLY_PINGS + 3) * PING_INTERVAL
                )
    finally:
        await worker.drain(0)
