"""Memory that cannot be cut, in real models: a state is used again whole or not at all, and no answer shows which.

Every answer is compared with that of a worker that computes each request alone and from its start.
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

BATCH = 512
"""The default of --n-batch."""
RIVER = " sat by the river and told a story about a fox and a crow who lived in the forest far away."
TAILS = [" The fox", " The crow said", " The river", " Far away", " In the forest", " Nobody knew why"]


@dataclass(frozen=True)
class Worker:
    service: GRPCInferenceServiceStub

    def ask(self, model: str, prompt: str, n: int = 1, max_tokens: int = 40) -> dict[str, list[Any]]:
        answer = outputs(self.service.ModelInfer(infer(model, prompt, max_tokens=max_tokens, temperature=0.0, n=n)))
        assert answer["completion_tokens"] == [max_tokens] * n
        return answer

    def ask_at_once(self, model: str, prompts: list[str], max_tokens: int = 40) -> list[str]:
        requests = [infer(model, prompt, max_tokens=max_tokens, temperature=0.0) for prompt in prompts]
        calls = [self.service.ModelInfer.future(request) for request in requests]
        return [outputs(call.result())["text"][0] for call in calls]


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, ...]]:
    """Options that serve the models."""
    # The answers are compared word for word: no KV cell is rounded.
    exactly = ("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attention", "off")
    with TemporaryDirectory() as folder:
        yield (*(f"--model={name}={path}" for name, path in recurrent.make(Path(folder)).items()), *exactly)


@pytest.fixture(scope="module")
def alone(files: tuple[str, ...]) -> Iterator[Worker]:
    """Uses nothing again and computes one sequence at a time."""
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
def cramped(files: tuple[str, ...]) -> Iterator[Worker]:
    """More sequences than there are cells for, and hardly an id for a cached prefix."""
    options = ("--n-ctx", "256", "--parallel", "6", "--cached-sequences", "2", "--n-batch", "32")
    with servers.worker(*files, *options) as (_, address), servers.stub(address) as service:
        yield Worker(service)


@pytest.fixture(params=[recurrent.MAMBA, recurrent.JAMBA])
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_an_answer_shows_what_the_whole_prompt_was(alone: Worker, model: str) -> None:
    """Or nothing would be proved here: what differs in the first word of the prompt differs in the answer."""
    prompts = [name + RIVER * 6 for name in ("Anna", "Bert", "Carl")]
    answers = [alone.ask(model, prompt)["text"][0] for prompt in prompts]
    assert len(set(answers)) == len(prompts)
    assert [alone.ask(model, prompt)["text"][0] for prompt in prompts] == answers
    assert all(len(set(answer.split())) > 20 for answer in answers)
    parameters = alone.service.ModelConfig(pb.ModelConfigRequest(name=model)).config.parameters
    assert parameters["architecture"].string_value == model


def test_a_template_for_tools_is_told(alone: Worker) -> None:
    mamba, jamba = (
        alone.service.ModelConfig(pb.ModelConfigRequest(name=name)).config.parameters
        for name in (recurrent.MAMBA, recurrent.JAMBA)
    )
    assert mamba["chat_template_tool_use"].string_value == recurrent.TOOL_TEMPLATE
    assert mamba["chat_template"] == jamba["chat_template"]
    assert "chat_template_tool_use" not in jamba


def test_the_same_prompt_again(alone: Worker, worker: Worker, model: str) -> None:
    """Its last token has to be computed, so the state would have to be that of one token less."""
    prompt = "Again Anna" + RIVER * 2
    answers = [worker.ask(model, prompt) for _ in range(3)]
    assert [answer["cached_tokens"] for answer in answers] == [[0]] * 3
    assert [answer["text"] for answer in answers] == [alone.ask(model, prompt)["text"]] * 3


def test_a_conversation_goes_on_from_its_state(alone: Worker, worker: Worker, model: str) -> None:
    prompt, known = "Talking Anna" + RIVER * 2, 0
    for tail in ("", *TAILS[:3]):
        prompt += tail
        answer = worker.ask(model, prompt)
        assert answer["cached_tokens"] == [known]
        assert answer["text"] == alone.ask(model, prompt)["text"]
        prompt += answer["text"][0]
        known = answer["prompt_tokens"][0] + answer["completion_tokens"][0] - 1  # The last one was not computed.


def test_a_part_of_a_state_is_of_no_use_and_does_no_harm(alone: Worker, worker: Worker, model: str) -> None:
    prompt = "Partly Anna" + RIVER * 2
    first = worker.ask(model, prompt)
    whole = prompt + first["text"][0] + TAILS[0]
    for tail in TAILS[1:3]:
        other = worker.ask(model, prompt + tail)
        assert other["cached_tokens"] == [0]
        assert other["text"] == alone.ask(model, prompt + tail)["text"]
    again = worker.ask(model, whole)
    assert again["cached_tokens"] == [first["prompt_tokens"][0] + first["completion_tokens"][0] - 1]
    assert again["text"] == alone.ask(model, whole)["text"]


@pytest.mark.parametrize("tail", [TAILS[0], RIVER, RIVER * 30])
def test_choices_fork_from_one_state(alone: Worker, worker: Worker, model: str, tail: str) -> None:
    """What follows the state is less than is worth waiting for, more than that, and more than a batch."""
    prompt = f"Forking Anna {len(tail)}" + RIVER * 2
    first = worker.ask(model, prompt)
    prompt += first["text"][0] + tail
    answer = worker.ask(model, prompt, n=3)
    assert answer["cached_tokens"] == [first["prompt_tokens"][0] + first["completion_tokens"][0] - 1]
    assert answer["text"] == alone.ask(model, prompt)["text"] * 3


def test_choices_of_a_prompt_longer_than_a_batch(alone: Worker, worker: Worker, model: str) -> None:
    prompt = "Choosing Anna" + RIVER * 30
    answer = worker.ask(model, prompt, n=3)
    assert answer["prompt_tokens"][0] > BATCH
    assert answer["text"] == alone.ask(model, prompt)["text"] * 3


def test_requests_that_begin_alike_at_once(alone: Worker, worker: Worker, model: str) -> None:
    prompts = ["Together Anna" + RIVER * 3 + tail for tail in TAILS]
    expected = [alone.ask(model, prompt)["text"][0] for prompt in prompts]
    for _ in range(3):
        assert worker.ask_at_once(model, prompts) == expected


def test_requests_that_continue_one_state_at_once(alone: Worker, worker: Worker, model: str) -> None:
    prompt = "Branching Anna" + RIVER * 3
    prompt += worker.ask(model, prompt)["text"][0]
    prompts = [prompt + tail for tail in TAILS]
    expected = [alone.ask(model, each)["text"][0] for each in prompts]
    for _ in range(3):
        assert worker.ask_at_once(model, prompts) == expected


def test_cells_run_short(alone: Worker, cramped: Worker, model: str) -> None:
    """Six requests of 160 tokens, 256 cells: those who gave way go on as if nothing had been."""
    prompts = [f"{name}{RIVER * 3}" for name in ("Anna", "Bert", "Carl", "Dora", "Emil", "Fred")]
    expected = [alone.ask(model, prompt, max_tokens=100)["text"][0] for prompt in prompts]
    assert cramped.ask_at_once(model, prompts, max_tokens=100) == expected


def test_whatever_comes_in_whatever_order(alone: Worker, cramped: Worker, model: str) -> None:
    """Conversations that go the same way for a while, some with several choices, some given up, four at a time."""
    dice = random.Random(5)

    def conversation(name: str, tails: list[str]) -> list[str]:
        """What is wrong with it: nothing."""
        wrong, prompt = [], name + RIVER
        for tail in tails:
            prompt += tail
            n = len(tail) % 3 + 1
            if n == 2:  # This one came before, and was given up.
                lost = infer(model, prompt, max_tokens=100, temperature=0.0)
                stream = cramped.service.ModelStreamInfer(iter([lost]))
                for _ in range(len(tails)):
                    next(stream, None)
                stream.cancel()
            expected = alone.ask(model, prompt, max_tokens=12)["text"]
            if cramped.ask(model, prompt, n=n, max_tokens=12)["text"] != expected * n:
                wrong.append(prompt)
            prompt += expected[0]
        return wrong

    stories = [(dice.choice(["Anna", "Bert"]), dice.choices(TAILS, k=dice.randint(1, 6))) for _ in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert [wrong for wrongs in pool.map(conversation, *zip(*stories, strict=True)) for wrong in wrongs] == []
