"""`python -m tests.ops.heavy_worker`: measures how much memory a worker keeps after heavy load.

Clients of all kinds load it for some minutes: streams, large prompts, log probabilities, guides that are all different,
embeddings, texts to tokenize, messages of 15 MB that are refused, thousands of calls and hundreds of connections. Then
all of them disconnect. The promise: half a minute later, its anonymous memory is within 24 MiB of that after a shorter
warm-up. The mapped model and the process that compiles guides are not counted.
"""

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import click
import grpc

from protos import contract, tensors
from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import servers
from tests.e2e.messages import infer
from tests.models import smollm2_path
from tests.ops.census import census

MODEL = "smollm2"
GROWTH_MIB = 24
"""MiB of anonymous memory that may be added."""
SETTLE_SECONDS = 30
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "rain", "falls", "on", "roofs")

Kind = Callable[[GRPCInferenceServiceStub, random.Random], object]


def text(rng: random.Random, n_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=n_words))


def chat(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    return list(service.ModelStreamInfer(iter([infer(MODEL, text(rng, rng.randint(5, 200)), max_tokens=40)])))


def long_prompt(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    return service.ModelInfer(infer(MODEL, text(rng, 800), max_tokens=3))


def too_long_prompt(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    return service.ModelInfer(infer(MODEL, text(rng, 300_000), max_tokens=3))


def choices_with_logprobs(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    return service.ModelInfer(infer(MODEL, text(rng, 20), max_tokens=20, n=8, logprobs=20, seed=rng.randrange(1 << 30)))


def echo(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    return service.ModelInfer(infer(MODEL, text(rng, 300), max_tokens=0, echo=True, logprobs=20))


def penalties(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    request = infer(
        MODEL,
        text(rng, 100),
        max_tokens=20,
        dry_multiplier=1.0,
        dry_sequence_breakers=[text(rng, 1), str(rng.random())],
        repetition_penalty=1.2,
    )
    return service.ModelInfer(request)


def guide(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    properties = {f"f{rng.randrange(1 << 40)}": {"type": "string", "maxLength": 9} for _ in range(rng.randint(1, 30))}
    schema = json.dumps({"type": "object", "properties": properties})
    return service.ModelInfer(infer(MODEL, "A JSON object: ", max_tokens=10, json_schema=schema))


def with_task(task: str, message: pb.ModelInferRequest) -> pb.ModelInferRequest:
    message.parameters[contract.PARAM_TASK].string_param = task
    return message


def embed(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    return service.ModelInfer(with_task(contract.TASK_EMBED, infer(MODEL, text(rng, rng.randint(1, 1000)))))


def tokenize(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    return service.ModelInfer(with_task(contract.TASK_TOKENIZE, infer(MODEL, text(rng, 6000))))


def large_message(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    request = infer(MODEL, "a" * 15_000_000, max_tokens=1)
    if rng.random() < 0.5:
        request = pb.ModelInferRequest(model_name=MODEL)
        tensors.add_input(request, contract.PROMPT_TOKEN_IDS, [rng.randrange(40_000)] * 1_000_000)
    return service.ModelInfer(request)


def many_calls(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    """Sends 300 calls at once, most of which are refused or cancelled."""
    calls = [service.ModelInfer.future(infer(MODEL, text(rng, 50), max_tokens=30)) for _ in range(300)]
    time.sleep(0.2)
    for call in calls:
        call.cancel()
    return None


def open_streams(service: GRPCInferenceServiceStub, rng: random.Random) -> object:
    """Opens 100 streams on which nothing is sent."""
    stop = threading.Event()

    def nothing() -> Iterator[pb.ModelInferRequest]:
        stop.wait()
        yield from ()

    calls = [service.ModelStreamInfer(nothing()) for _ in range(100)]
    time.sleep(2)
    stop.set()
    return [list(call) for call in calls]


KINDS: dict[str, tuple[Kind, int]] = {
    "chat": (chat, 10),
    "long prompt": (long_prompt, 2),
    "too long prompt": (too_long_prompt, 2),
    "choices": (choices_with_logprobs, 3),
    "echo": (echo, 2),
    "penalties": (penalties, 3),
    "guide": (guide, 5),
    "embed": (embed, 3),
    "tokenize": (tokenize, 3),
    "large message": (large_message, 2),
    "many calls": (many_calls, 1),
    "open streams": (open_streams, 3),
}
"""Each kind of request with its weight."""


def send(address: str, kind: Kind, rng: random.Random) -> str:
    """Sends a request on a new connection; returns its status."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            kind(GRPCInferenceServiceStub(channel), rng)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def load(address: str, clients: int, minutes: float, seed: int, pid: int) -> Counter[str]:
    """Runs the load; returns the counted outcomes of all requests."""
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def work(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        while not stop.is_set():
            (name,) = rng.choices(list(KINDS), weights=[weight for _, weight in KINDS.values()])
            outcomes[f"{name}: {send(address, KINDS[name][0], rng)}"] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + minutes * 60
    while (remaining := end - time.monotonic()) > 0:
        time.sleep(min(15, remaining))
        click.echo(f"  under load: {census(pid).resident} MiB")
    stop.set()
    for thread in threads:
        thread.join()
    return outcomes


@click.command()
@click.option("--minutes", default=3.0, show_default=True)
@click.option("--warm-up", default=2.0, show_default=True, help="Minutes of load before the first measurement.")
@click.option("--clients", default=12, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(minutes: float, warm_up: float, clients: int, seed: int) -> None:
    """Prints the worker's anonymous memory over time. Exit status 1 if too much of it is kept."""
    options = ("--model", f"{MODEL}={smollm2_path()}", "--n-ctx", "2048", "--no-access-log")
    with servers.worker(*options) as (process, address):
        pid = process.popen.pid
        click.echo(f"ready: {census(pid).resident} MiB")
        for name, (kind, _) in KINDS.items():
            status_name = send(address, kind, random.Random(seed))
            click.echo(f"  one {name}, {status_name}: {census(pid).resident} MiB")
        at_rest: list[int] = []
        for duration in (warm_up, minutes):
            outcomes = load(address, clients, duration, seed + len(at_rest), pid)
            click.echo(f"all clients have disconnected: {census(pid).resident} MiB; {dict(outcomes)}")
            time.sleep(SETTLE_SECONDS)
            at_rest.append(census(pid).resident)
            click.echo(f"at rest: {at_rest[-1]} MiB")
    before, after = at_rest
    if after > before + GROWTH_MIB:
        click.echo(f"{after} MiB, {before} after the warm-up", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
