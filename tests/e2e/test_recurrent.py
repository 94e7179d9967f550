"""Recurrent models, whose state cannot be truncated: a state is reused whole or not at all, without an effect on
results.

Every result is compared with that of a worker that computes each request alone and from its start.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import recurrent, servers
from tests.e2e.messages import infer, outputs

N_BATCH = 512
"""The default of --n-batch."""
RIVER = " sat by the river and told a story about a fox and a crow who lived in the forest far away."
TAILS = [" The fox", " The crow said", " The river", " Far away", " In the forest", " Nobody knew why"]


@dataclass(frozen=True)
class Worker:
    service: GRPCInferenceServiceStub

    def generate(self, model: str, prompt: str, n: int = 1, max_tokens: int = 40) -> dict[str, list[Any]]:
        response = outputs(self.service.ModelInfer(infer(model, prompt, max_tokens=max_tokens, temperature=0.0, n=n)))
        assert response["completion_tokens"] == [max_tokens] * n
        return response

    def generate_at_once(self, model: str, prompts: list[str], max_tokens: int = 40) -> list[str]:
        requests = [infer(model, prompt, max_tokens=max_tokens, temperature=0.0) for prompt in prompts]
        calls = [self.service.ModelInfer.future(request) for request in requests]
        return [outputs(call.result())["text"][0] for call in calls]


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, ...]]:
    """Yields the options that serve the models."""
    # Texts are compared word for word, so no KV cell may be rounded.
    unrounded = ("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attention", "off")
    with TemporaryDirectory() as folder:
        yield (*(f"--model={name}={path}" for name, path in recurrent.make(Path(folder)).items()), *unrounded)


@pytest.fixture(scope="module")
def reference(files: tuple[str, ...]) -> Iterator[Worker]:
    """A worker that reuses nothing and computes one sequence at a time."""
    with (
        servers.worker(*files, "--no-prefix-cache", "--parallel", "1") as (_, address),
        servers.stub(address) as service,
    ):
        yield Worker(service)


@pytest.fixture(scope="module")
def worker(files: tuple[str, ...]) -> Iterator[Worker]:
    with servers.worker(*files) as (_, address), servers.stub(address) as service:
        yield Worker(service)


@pytest.fixture(scope="module")
def small_worker(files: tuple[str, ...]) -> Iterator[Worker]:
    """A worker with more slots than KV cells for them, and two ids for cached prefixes."""
    options = ("--n-ctx", "256", "--parallel", "6", "--cached-sequences", "2", "--n-batch", "32")
    with servers.worker(*files, *options) as (_, address), servers.stub(address) as service:
        yield Worker(service)


@pytest.fixture(params=[recurrent.MAMBA, recurrent.JAMBA])
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_text_depends_on_the_whole_prompt(reference: Worker, model: str) -> None:
    """Otherwise the other tests would prove nothing: prompts that differ in the first word have different texts."""
    prompts = [name + RIVER * 6 for name in ("Anna", "Bert", "Carl")]
    texts = [reference.generate(model, prompt)["text"][0] for prompt in prompts]
    assert len(set(texts)) == len(prompts)
    assert [reference.generate(model, prompt)["text"][0] for prompt in prompts] == texts
    assert all(len(set(text.split())) > 20 for text in texts)
    parameters = reference.service.ModelConfig(pb.ModelConfigRequest(name=model)).config.parameters
    assert parameters["architecture"].string_value == model


def test_the_config_has_the_template_for_tools(reference: Worker) -> None:
    mamba, jamba = (
        reference.service.ModelConfig(pb.ModelConfigRequest(name=name)).config.parameters
        for name in (recurrent.MAMBA, recurrent.JAMBA)
    )
    assert mamba["chat_template_tool_use"].string_value == recurrent.TOOL_TEMPLATE
    assert mamba["chat_template"] == jamba["chat_template"]
    assert "chat_template_tool_use" not in jamba


def test_a_repeated_prompt_does_not_use_the_state(reference: Worker, worker: Worker, model: str) -> None:
    """The last token has to be computed again, which would need the state of one token less."""
    prompt = "Again Anna" + RIVER * 2
    responses = [worker.generate(model, prompt) for _ in range(3)]
    assert [response["cached_tokens"] for response in responses] == [[0]] * 3
    assert [response["text"] for response in responses] == [reference.generate(model, prompt)["text"]] * 3


def test_a_conversation_continues_from_its_state(reference: Worker, worker: Worker, model: str) -> None:
    prompt, n_cached = "Talking Anna" + RIVER * 2, 0
    for tail in ("", *TAILS[:3]):
        prompt += tail
        response = worker.generate(model, prompt)
        assert response["cached_tokens"] == [n_cached]
        assert response["text"] == reference.generate(model, prompt)["text"]
        prompt += response["text"][0]
        n_cached = (
            response["prompt_tokens"][0] + response["completion_tokens"][0] - 1
        )  # the last token was not computed


def test_a_part_of_a_state_is_not_used(reference: Worker, worker: Worker, model: str) -> None:
    prompt = "Partly Anna" + RIVER * 2
    first = worker.generate(model, prompt)
    whole = prompt + first["text"][0] + TAILS[0]
    for tail in TAILS[1:3]:
        response = worker.generate(model, prompt + tail)
        assert response["cached_tokens"] == [0]
        assert response["text"] == reference.generate(model, prompt + tail)["text"]
    continued = worker.generate(model, whole)
    assert continued["cached_tokens"] == [first["prompt_tokens"][0] + first["completion_tokens"][0] - 1]
    assert continued["text"] == reference.generate(model, whole)["text"]


@pytest.mark.parametrize("tail", [TAILS[0], RIVER, RIVER * 30])
def test_choices_fork_from_one_state(reference: Worker, worker: Worker, model: str, tail: str) -> None:
    """The text after the state is too short to wait for, long enough to wait for, or longer than a batch."""
    prompt = f"Forking Anna {len(tail)}" + RIVER * 2
    first = worker.generate(model, prompt)
    prompt += first["text"][0] + tail
    response = worker.generate(model, prompt, n=3)
    assert response["cached_tokens"] == [first["prompt_tokens"][0] + first["completion_tokens"][0] - 1]
    assert response["text"] == reference.generate(model, prompt)["text"] * 3


def test_choices_of_a_prompt_longer_than_a_batch_have_the_same_text(
    reference: Worker, worker: Worker, model: str
) -> None:
    prompt = "Choosing Anna" + RIVER * 30
    response = worker.generate(model, prompt, n=3)
    assert response["prompt_tokens"][0] > N_BATCH
    assert response["text"] == reference.generate(model, prompt)["text"] * 3


def test_concurrent_requests_with_a_common_beginning_have_the_same_texts(
    reference: Worker, worker: Worker, model: str
) -> None:
    prompts = ["Together Anna" + RIVER * 3 + tail for tail in TAILS]
    expected = [reference.generate(model, prompt)["text"][0] for prompt in prompts]
    for _ in range(3):
        assert worker.generate_at_once(model, prompts) == expected


def test_concurrent_requests_that_continue_one_state_have_the_same_texts(
    reference: Worker, worker: Worker, model: str
) -> None:
    prompt = "Branching Anna" + RIVER * 3
    prompt += worker.generate(model, prompt)["text"][0]
    prompts = [prompt + tail for tail in TAILS]
    expected = [reference.generate(model, continued)["text"][0] for continued in prompts]
    for _ in range(3):
        assert worker.generate_at_once(model, prompts) == expected


def test_preempted_requests_have_the_same_texts(reference: Worker, small_worker: Worker, model: str) -> None:
    """Six requests of 160 tokens share 256 KV cells."""
    prompts = [f"{name}{RIVER * 3}" for name in ("Anna", "Bert", "Carl", "Dora", "Emil", "Fred")]
    expected = [reference.generate(model, prompt, max_tokens=100)["text"][0] for prompt in prompts]
    assert small_worker.generate_at_once(model, prompts, max_tokens=100) == expected


def test_random_conversations_have_the_same_texts(reference: Worker, small_worker: Worker, model: str) -> None:
    """Conversations with common beginnings, some with several choices, some cancelled, four at a time."""
    dice = random.Random(5)

    def conversation(name: str, tails: list[str]) -> list[str]:
        """Returns the prompts whose texts are wrong: none, if all is well."""
        wrong, prompt = [], name + RIVER
        for tail in tails:
            prompt += tail
            n = len(tail) % 3 + 1
            if n == 2:  # an earlier request was cancelled
                cancelled = infer(model, prompt, max_tokens=100, temperature=0.0)
                stream = small_worker.service.ModelStreamInfer(iter([cancelled]))
                for _ in range(len(tails)):
                    next(stream, None)
                stream.cancel()
            expected = reference.generate(model, prompt, max_tokens=12)["text"]
            if small_worker.generate(model, prompt, n=n, max_tokens=12)["text"] != expected * n:
                wrong.append(prompt)
            prompt += expected[0]
        return wrong

    stories = [(dice.choice(["Anna", "Bert"]), dice.choices(TAILS, k=dice.randint(1, 6))) for _ in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert [wrong for wrongs in pool.map(conversation, *zip(*stories, strict=True)) for wrong in wrongs] == []
