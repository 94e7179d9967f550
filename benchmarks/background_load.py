"""Sends a worker ordinary requests and a batch over gRPC. Reads its orders from stdin, writes figures to stdout.

python -m benchmarks.background_load < orders.json > figures.json
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

import grpc

from benchmarks import prompts
from benchmarks.stats import percentile
from protos import contract, tensors
from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

PROMPT_TOKENS = 75


@dataclass
class BackgroundOrders:
    port: int
    model: str
    seed: str
    """Requests of different seeds have different prompts."""
    seconds: float
    clients: int = 0
    """Clients that stream. Each pauses as long as its last answer took, on average."""
    batch: int = 0
    """Lines of the batch that are under way at the same time; 0: no batch."""
    priority: int = contract.BATCH_PRIORITY
    """Priority of the batch."""
    tokens: int = 48
    """Tokens of an answer."""


@dataclass
class Load:
    orders: BackgroundOrders
    stream: grpc.aio.StreamStreamMultiCallable[pb.ModelInferRequest, pb.ModelStreamInferResponse]
    ends: float
    firsts: list[float] = field(default_factory=list)
    """Seconds to the first token of each streamed answer."""
    rates: list[float] = field(default_factory=list)
    """Tokens per second of each streamed answer, from its request to its end."""
    n_line_tokens: int = 0
    """Tokens of the batch that have arrived in time."""

    def request(self, kind: str, number: int, priority: int) -> pb.ModelInferRequest:
        orders = self.orders
        request = pb.ModelInferRequest(model_name=orders.model)
        prompt = prompts.short(f"{orders.seed} {kind}", number, PROMPT_TOKENS)
        tensors.add_input(request, contract.PROMPT, [prompt.encode()])
        tensors.add_input(request, contract.MAX_TOKENS, [orders.tokens])
        tensors.add_input(request, contract.TEMPERATURE, [0.0])
        tensors.add_input(request, contract.IGNORE_EOS, [True])
        tensors.add_input(request, contract.PRIORITY, [priority])
        return request

    async def client(self, number: int) -> None:
        """Streams answers. Half of the time it pauses."""
        dice, seconds = random.Random(number), 0.1 * number
        for k in count():
            await asyncio.sleep(seconds * dice.expovariate(1))
            began = time.perf_counter()
            if began >= self.ends:
                return
            first = 0.0
            async for _ in self.stream(iter([self.request(f"client {number}", k, 0)])):
                first = first or time.perf_counter()
            seconds = time.perf_counter() - began
            self.firsts.append(first - began)
            self.rates.append(self.orders.tokens / seconds)

    async def line(self, numbers: count[int]) -> None:
        for number in numbers:
            async for response in self.stream(iter([self.request("line", number, self.orders.priority)])):
                if time.perf_counter() >= self.ends:
                    return
                self.n_line_tokens += len(tensors.read_outputs(response.infer_response)[contract.TOKEN.name].elements)


async def run(orders: BackgroundOrders) -> dict[str, float]:
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{orders.port}", options=options) as channel:
        began = time.perf_counter()
        load = Load(orders, cast(Any, GRPCInferenceServiceStub(channel).ModelStreamInfer), began + orders.seconds)
        numbers = count()
        lines = [asyncio.ensure_future(load.line(numbers)) for _ in range(orders.batch)]
        clients = [asyncio.ensure_future(load.client(number)) for number in range(orders.clients)]
        await asyncio.sleep(orders.seconds)
        await asyncio.gather(*clients)
        for task in lines:
            task.cancel()
        done = await asyncio.gather(*lines, return_exceptions=True)
        for problem in done:
            if isinstance(problem, BaseException) and not isinstance(problem, asyncio.CancelledError):
                raise problem
    return {
        "ttft_p50_ms": 1e3 * percentile(load.firsts, 50),
        "ttft_p95_ms": 1e3 * percentile(load.firsts, 95),
        "answer_tokens_per_s": percentile(load.rates, 50),
        "tokens_per_s": orders.tokens * len(load.rates) / orders.seconds,
        "answers": len(load.firsts),
        "line_tokens_per_s": load.n_line_tokens / orders.seconds,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(run(BackgroundOrders(**json.load(sys.stdin)))), sys.stdout)
