"""Background work on real models: its texts, and those of the requests beside it, are those of a request alone."""

import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import pytest

from anyserve_worker.core.errors import Interrupted
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.llama.model import Model
from anyserve_worker.llama.model_runner import ModelRunner
from anyserve_worker.llama.native import llama
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.sequence import Sequence, token_array
from anyserve_worker.text.output import TextOutput
from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import recurrent, servers
from tests.e2e.messages import infer, outputs
from tests.models import gemma3_path, smollm2_path

MODEL = "model"
PEOPLE = {
    "Anna": ("harbour", "seven red boats", "fish"),
    "Bert": ("market", "nine black horses", "bread"),
    "Carl": ("garden", "four white birds", "roses"),
    "Dora": ("station", "two green trains", "paper"),
    "Emil": ("bridge", "six small ships", "water"),
    "Fred": ("school", "eight blue doors", "books"),
}
SENTENCE = "{} walked down to the old {}, counted the {}, and went home with a basket of fresh {}. "
"""A text that repeats it and ends inside is continued with it: each token is far likelier than all others, so that the
last bits of a logit, which the other rows of a step change, don't matter."""
N_TOKENS = 16
CALL_TIMEOUT = 120


class Call(Protocol):
    """A call of the worker."""

    def result(self) -> pb.ModelInferResponse: ...
    def cancel(self) -> bool: ...


@dataclass(frozen=True)
class Worker:
    service: GRPCInferenceServiceStub
    metrics: str
    """URL of the metrics."""

    def generate(self, prompt: str, priority: int = 0, max_tokens: int = N_TOKENS) -> "Call":
        request = infer(MODEL, prompt, max_tokens=max_tokens, temperature=0.0, ignore_eos=True, priority=priority)
        return self.service.ModelInfer.future(request, timeout=CALL_TIMEOUT)

    def text(self, prompt: str) -> str:
        return text_of(self.generate(prompt))

    def value(self, metric: str) -> float:
        with urllib.request.urlopen(self.metrics) as response:
            [value] = re.findall(rf"^anyserve_worker_{metric}{{.*}} (.*)$", response.read().decode(), re.MULTILINE)
        return float(value)


def text_of(call: "Call") -> str:
    [text] = outputs(call.result())["text"]
    assert isinstance(text, str)
    return text


@contextmanager
def running(path: Path, *options: str) -> Iterator[Worker]:
    command = (f"--model={MODEL}={path}", "--metrics-port=0", "--n-ctx=1024", *options)
    with servers.worker(*command) as (process, address), servers.stub(address) as service:
        yield Worker(service, process.wait_for(r"metrics=(\S+)")[1])


def story(person: str) -> str:
    return SENTENCE.format(person, *PEOPLE[person]) * 3 + f"{person} walked down to the old"


def check_texts(worker: Worker, prompts: list[str], priorities: tuple[int, ...], *, interrupts: bool) -> None:
    """Sends every prompt as background work, and again as ordinary work meanwhile, and compares the texts."""
    expected = [worker.text(prompt) for prompt in prompts]
    assert len(set(expected)) == len(prompts)
    n_before = worker.value("background_tokens_total")
    lines = [worker.generate(prompt, priorities[k % len(priorities)]) for k, prompt in enumerate(2 * prompts)]
    servers.eventually(lambda: worker.value("background_tokens_total") > n_before, timeout=CALL_TIMEOUT)
    assert [worker.text(prompt) for prompt in prompts] == expected
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(worker.text, prompts)) == expected
    assert [text_of(line) for line in lines] == 2 * expected
    assert interrupts or worker.value("interrupted_steps_total") == 0


@pytest.mark.parametrize(
    ("path", "options", "interrupts"),
    [
        (smollm2_path, (), True),
        (smollm2_path, ("--parallel=3", "--kv-cells=1024", "--cached-sequences=1"), True),
        (smollm2_path, ("--parallel=1", "--background-share=0"), True),
        (smollm2_path, ("--parallel=3", "--n-ubatch=32", "--prompt-lookup=4"), True),
        (gemma3_path, ("--parallel=4",), True),
        (gemma3_path, ("--parallel=4", "--no-swa-full"), False),
    ],
    ids=["defaults", "few cells", "one slot", "prompt lookup", "sliding window", "sliding window that forgets"],
)
@pytest.mark.slow
def test_texts_are_those_of_requests_alone(
    path: Callable[[], Path], options: tuple[str, ...], interrupts: bool
) -> None:
    with running(path(), *options) as worker:
        check_texts(
            worker,
            [story(person) for person in PEOPLE],
            (contract.BATCH_PRIORITY, contract.FLEX_PRIORITY),
            interrupts=interrupts,
        )


@pytest.mark.parametrize("architecture", [recurrent.MAMBA, recurrent.JAMBA])
@pytest.mark.slow
def test_texts_of_recurrent_models_are_those_of_requests_alone(architecture: str) -> None:
    unrounded = ("--cache-type-k=f32", "--cache-type-v=f32", "--flash-attention=off")
    with TemporaryDirectory() as folder, running(recurrent.make(Path(folder))[architecture], *unrounded) as worker:
        prompts = [story(person) for person in PEOPLE]
        check_texts(worker, prompts, (contract.BATCH_PRIORITY, contract.FLEX_PRIORITY), interrupts=False)


@pytest.mark.slow
def test_an_arrival_interrupts_a_step() -> None:
    with running(smollm2_path(), "--parallel=16") as worker:
        expected = worker.text(story("Anna"))
        stop = threading.Event()

        def keep_busy(number: int) -> list[str]:
            texts = []
            while not stop.is_set():
                texts.append(text_of(worker.generate(story(list(PEOPLE)[number]), contract.BATCH_PRIORITY, 20)))
            return texts

        with ThreadPoolExecutor(4) as pool:
            lines = [pool.submit(keep_busy, number) for number in range(4)]
            try:
                for _ in range(1000):
                    assert worker.text(story("Anna")) == expected
                    if worker.value("interrupted_steps_total") >= 3:
                        break
            finally:
                stop.set()
            assert worker.value("interrupted_steps_total") >= 3
            for line in lines:
                assert len(set(line.result())) <= 1


def test_a_cancelled_line_frees_its_cells() -> None:
    with running(smollm2_path(), "--no-prefix-cache") as worker:
        lines = [worker.generate(story(person), contract.BATCH_PRIORITY, 300) for person in PEOPLE]
        servers.eventually(lambda: worker.value("background_tokens_total") > 0)
        for line in lines:
            line.cancel()
        servers.eventually(lambda: worker.value("kv_cells_used") == 0)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(smollm2_path(), ModelOptions(), lambda _: True)


@pytest.mark.parametrize("n_ubatch", [512, 32])
def test_an_interrupted_step_leaves_the_memory_as_it_was(model: Model, n_ubatch: int) -> None:
    """`n_ubatch` 32: parts of the step may be complete when it is interrupted."""
    runner = ModelRunner(model, ModelOptions(n_ctx=1024, parallel=4, n_ubatch=n_ubatch), threads=1)
    assert runner.interruptible
    sequences = [
        Sequence(
            0, token_array(range(1000 * k, 1000 * k + 100)), 100, 200, SamplingParameters(), TextOutput(), seq_id=k
        )
        for k in range(1, 4)
    ]

    def logits() -> np.ndarray:
        """Computes the rest of all sequences, and returns the logits of the last tokens."""
        runner.run([Chunk(s, 60, 40) for s in sequences], 1)
        rows = [llama.llama_get_logits_ith(runner._ctx, 40 * k + 39) for k in range(3)]
        return np.array([np.ctypeslib.as_array(row, (model.vocabulary.n_vocab,)).copy() for row in rows])

    for sequence in sequences:
        runner.run([Chunk(sequence, 0, 60)], 1)
    expected = logits()
    for sequence in sequences:
        runner.truncate(sequence.seq_id, 60)
    runner.interrupt(True)
    for _ in range(3):
        with pytest.raises(Interrupted):
            logits()
        for sequence in sequences:
            runner.truncate(sequence.seq_id, 60)
            assert llama.llama_memory_seq_pos_max(runner._memory, sequence.seq_id) == 59
    runner.interrupt(False)
    assert np.allclose(logits(), expected, atol=0.5)
    runner.free()
