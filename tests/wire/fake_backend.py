"""`python -m tests.wire.fake_backend TARGET...`: a fake worker that listens on gRPC's targets until it is
terminated."""

import asyncio
import sys

from grpc import aio

from protos.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from tests.wire.fake_worker import FakeWorker


async def main(targets: list[str]) -> None:
    server = aio.server()
    add_GRPCInferenceServiceServicer_to_server(FakeWorker(), server)
    for target in targets:
        server.add_insecure_port(target)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
