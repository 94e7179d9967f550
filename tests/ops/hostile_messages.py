"""`python -m tests.ops.hostile_messages`: measures how gRPC messages that are expensive to read affect other calls.

The promise: while such messages arrive continuously, `ServerLive` takes at most 50 ms more at p99 than while small
messages arrive. The attacker, the worker and this process share the same processors.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import grpc

from benchmarks.stats import percentile
from protos import contract, tensors
from protos import grpc_predict_v2_pb2 as pb
from tests.e2e import servers
from tests.gguf_files import tiny

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MESSAGE_BYTES = 16_000_000
"""Bytes of a message; the worker accepts 16 MiB."""
DELAY_SECONDS = 0.050
"""Seconds that a probe may take longer, at p99."""
PROBE_INTERVAL = 0.01
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
)
Make = Callable[[], bytes]
Contents = pb.InferTensorContents
Input = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor


def encoded(**fields: object) -> bytes:
    return pb.ModelInferRequest(model_name="tiny", **fields).SerializeToString()  # type: ignore[arg-type]


def inputs(*contents: tuple[contract.TensorSpec, list[object]], raw: bool = False) -> bytes:
    message = pb.ModelInferRequest(model_name="tiny")
    for spec, elements in contents:
        if raw:
            message.inputs.add(name=spec.name, datatype=spec.datatype, shape=[len(elements)])
            message.raw_input_contents.append(tensors.to_raw(spec.datatype, elements))
        else:
            tensors.add_input(message, spec, elements)
    return message.SerializeToString()


def empty_strings(n_inputs: int) -> bytes:
    message = pb.ModelInferRequest(model_name="tiny")
    for i in range(n_inputs):
        message.inputs.add(name=f"x{i}", datatype="BYTES", shape=[MESSAGE_BYTES // 4 // n_inputs])
        message.raw_input_contents.append(bytes(MESSAGE_BYTES // n_inputs))
    return message.SerializeToString()


def typed(kind: str, n_inputs: int, element: int = 1, size: int = MESSAGE_BYTES) -> bytes:
    message = pb.ModelInferRequest(model_name="tiny")
    for i in range(n_inputs):
        tensor = message.inputs.add(name=f"x{i}", datatype="INT32", shape=[size // n_inputs])
        getattr(tensor.contents, kind).extend([element] * (size // n_inputs))
    return message.SerializeToString()


def spans(character: str, n: int) -> bytes:
    width = len(character.encode())
    text = character * (MESSAGE_BYTES // 2 // width)
    offsets: list[object] = [i * width for i in range(n)]
    return inputs((contract.PROMPT, [text.encode()]), (contract.PLAIN_SPANS, offsets))


def parameters(n: int) -> bytes:
    message = pb.ModelInferRequest(model_name="tiny")
    for i in range(n):
        message.parameters[str(i)].bool_param = True
    return message.SerializeToString()


KINDS: dict[str, Make] = {
    "small": lambda: inputs((contract.PROMPT, [b""]), (contract.MAX_TOKENS, [0])),
    "empty strings, 1 input": lambda: empty_strings(1),
    "empty strings, 240 inputs": lambda: empty_strings(240),
    "empty strings, typed": lambda: encoded(
        inputs=[Input(contents=pb.InferTensorContents(bytes_contents=[b""] * 4_000_000))]
    ),
    "16 million bools": lambda: typed("bool_contents", 1),
    "16 million ints": lambda: typed("int_contents", 16),
    "16 million long ints": lambda: typed("int64_contents", 16),
    "2 million ints": lambda: typed("int_contents", 16, size=2_000_000),
    "4 million floats": lambda: typed("fp32_contents", 4, size=MESSAGE_BYTES // 4),
    "a million ids": lambda: inputs((contract.PROMPT_TOKEN_IDS, [7] * 1_000_000)),
    "a million ids, raw": lambda: inputs((contract.PROMPT_TOKEN_IDS, [7] * 1_000_000), raw=True),
    "16 million dimensions": lambda: encoded(inputs=[Input(name="x", datatype="INT32", shape=[1] * MESSAGE_BYTES)]),
    "inputs": lambda: encoded(inputs=[Input()] * (MESSAGE_BYTES // 2)),
    "outputs": lambda: encoded(outputs=[Output()] * (MESSAGE_BYTES // 2)),
    "16,000 inputs": lambda: encoded(id="x" * 70_000, inputs=[Input()] * 16_000),
    "parameters": lambda: parameters(1_000_000),
    "4,000 parameters": lambda: parameters(4_000),
    "behind a group": lambda: b"\x4b\x4c" + encoded(inputs=[Input()] * (MESSAGE_BYTES // 2)),
    "a long id": lambda: encoded(id="x" * MESSAGE_BYTES),
    "a long model name": lambda: pb.ModelInferRequest(model_name="漢" * (MESSAGE_BYTES // 3)).SerializeToString(),
    "a long input name": lambda: encoded(inputs=[Input(name="x" * MESSAGE_BYTES, datatype="INT32", shape=[1])]),
    "a long datatype": lambda: encoded(inputs=[Input(name="x", datatype="x" * MESSAGE_BYTES, shape=[1])]),
    "a long prompt": lambda: inputs((contract.PROMPT, [b"a " * (MESSAGE_BYTES // 2)])),
    "a long prompt of emoji": lambda: inputs((contract.PROMPT, ["😀".encode() * (MESSAGE_BYTES // 4)])),
    "a long prompt that is no text": lambda: inputs((contract.PROMPT, [b"a" * (MESSAGE_BYTES - 1000) + b"\xff"])),
    "a long prompt, one span": lambda: spans("漢", 2),
    "65,536 spans": lambda: spans("漢", 131_072),
    "500,000 spans": lambda: spans("a", 1_000_000),
    "a long guide": lambda: inputs((contract.PROMPT, [b"a"]), (contract.REGEX, ["漢".encode() * (MESSAGE_BYTES // 3)])),
    "no message": lambda: b"\xff" * MESSAGE_BYTES,
}


def attack(address: str, message: bytes, stop: threading.Event, outcomes: Counter[str]) -> None:
    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
    ]
    with grpc.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_unary(METHOD)
        while not stop.is_set():
            try:
                call(message)
                outcomes["OK"] += 1
            except grpc.RpcError as error:
                outcomes[error.code().name] += 1


def probe(address: str, seconds: float) -> Iterator[float]:
    with servers.stub(address) as service:
        service.ServerLive(pb.ServerLiveRequest())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            service.ServerLive(pb.ServerLiveRequest())
            yield time.perf_counter() - began
            time.sleep(PROBE_INTERVAL)


@click.command()
@click.option("--seconds", default=4.0, show_default=True, help="Seconds of each kind of message.")
@click.option(
    "--kind", "only", multiple=True, type=click.Choice(tuple(KINDS)), help="Only this kind; repeatable. Default: all."
)
def main(seconds: float, only: tuple[str, ...]) -> None:
    """Prints how long probes took beside each kind of message. Exit status 1 if any took too long."""
    too_slow = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny.gguf"
        model.write_bytes(tiny().data())
        with servers.worker("--model", str(model), "--no-access-log") as (_, address):
            alone = 0.0
            click.echo(f"{'':32}{'messages/s':>10}   ServerLive ms: p50     p99     max")
            for name in only or KINDS:
                message, stop, outcomes = KINDS[name](), threading.Event(), Counter[str]()
                attacker = threading.Thread(target=attack, args=(address, message, stop, outcomes))
                attacker.start()
                durations = list(probe(address, seconds))
                stop.set()
                attacker.join()
                p50, p99, maximum = (percentile(durations, percent) for percent in (50, 99, 100))
                alone = alone or p99
                ms = f"{p50 * 1000:19.1f}{p99 * 1000:8.1f}{maximum * 1000:8.1f}"
                click.echo(f"{name:32}{outcomes.total() / seconds:10.1f}{ms}   {dict(outcomes)}")
                if p99 > alone + DELAY_SECONDS:
                    too_slow.append(name)
    for name in too_slow:
        click.echo(f"{name}: too slow", err=True)
    sys.exit(bool(too_slow))


if __name__ == "__main__":
    main()
