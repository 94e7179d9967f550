"""Stored responses, conversations and background responses of the whole pair, with the newest `openai` package."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from openai_server.backends.dialects.anyserve.load import load_request, read_load
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import servers
from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair


@pytest.fixture(scope="module")
def replicas(worker_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Yields the base URLs of two sidecars with one store."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db"
    with (
        servers.sidecar(worker_address, "--store", store) as (_, first),
        servers.sidecar(worker_address, "--store", store) as (_, second),
    ):
        yield [f"{first}/v1", f"{second}/v1"]


@pytest.fixture
def clients(replicas: list[str]) -> Iterator[list[openai.OpenAI]]:
    clients = [openai.OpenAI(base_url=url, api_key="none", max_retries=0) for url in replicas]
    yield clients
    for client in clients:
        client.close()


def test_a_chain_over_two_replicas_computes_each_prefix_once(clients: list[openai.OpenAI]) -> None:
    first, second = clients
    question = "My dog is called Rex. " * 20
    response = first.responses.create(model=GEMMA3, input=question, max_output_tokens=16, temperature=0)
    for client in (second, first):
        assert response.usage
        before = response.usage.total_tokens
        response = client.responses.create(
            model=GEMMA3,
            input="What is it called?",
            previous_response_id=response.id,
            max_output_tokens=16,
            temperature=0,
        )
        assert response.usage
        assert response.usage.input_tokens > before
        assert response.usage.input_tokens_details.cached_tokens > 0.9 * before
    context = list(first.responses.input_items.list(response.id, order="asc", limit=2))
    assert [item.role for item in context if item.type == "message"] == ["user", "assistant"] * 2 + ["user"]


def test_a_conversation_is_kept(clients: list[openai.OpenAI]) -> None:
    first, second = clients
    conversation = first.conversations.create(items=[{"type": "message", "role": "user", "content": "I am Ann."}])
    answers = [
        client.responses.create(model=SMOLLM2, input=text, conversation=conversation.id, max_output_tokens=8)
        for client, text in ((first, "Who am I?"), (second, "And you?"))
    ]
    texts = [
        "".join(part.text for part in item.content if hasattr(part, "text"))
        for item in second.conversations.items.list(conversation.id, order="asc")
        if item.type == "message"
    ]
    assert texts == ["I am Ann.", "Who am I?", answers[0].output_text, "And you?", answers[1].output_text]


def test_a_background_response_is_resumed_on_another_replica(clients: list[openai.OpenAI]) -> None:
    first, second = clients
    events: list[Any] = []
    with first.responses.create(
        model=SMOLLM2, input="Count to ten.", background=True, stream=True, max_output_tokens=48, temperature=0
    ) as stream:
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
    id, last = events[0].response.id, events[-1].sequence_number
    events += second.responses.retrieve(id, stream=True, starting_after=last)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    stored = first.responses.retrieve(id)
    assert (stored.output_text, stored) == (text, events[-1].response)
    again = [event.to_dict() for event in first.responses.retrieve(id, stream=True)]
    assert again == [event.to_dict() for event in events]


def test_a_background_response_is_cancelled_through_another_replica(clients: list[openai.OpenAI], pair: Pair) -> None:
    first, second = clients
    response = first.responses.create(model=SMOLLM2, input="Write a novel.", background=True, max_output_tokens=1900)
    servers.eventually(lambda: second.responses.retrieve(response.id).status == "in_progress")
    assert second.responses.cancel(response.id).status == "cancelled"
    assert first.responses.cancel(response.id).status == "cancelled"
    with servers.stub(pair.worker) as stub:
        servers.eventually(lambda: not running(stub), 5)


def running(stub: GRPCInferenceServiceStub) -> int:
    """Returns the number of sequences that wait or run in the worker."""
    load = read_load(stub.ModelInfer(load_request()))
    return load.waiting + load.running
