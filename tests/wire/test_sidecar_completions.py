from typing import Any

import pytest
from openai.types import Completion

from protos import contract
from tests.shapes import exact
from tests.wire.fake_worker import (
    ALL_INPUTS,
    FakeWorker,
    answers,
    echo,
    inputs_of,
    message,
    whole,
)
from tests.wire.sidecar import running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")


async def test_a_completion_has_the_shape_of_the_openai_package() -> None:
    worker = FakeWorker(answers(whole(" world", reason="length")))
    async with running(worker) as sidecar:
        reply = await sidecar.complete(prompt="hello")
    assert reply.headers["content-type"] == "application/json"
    completion = exact(Completion, reply.json)
    assert completion.model == "tiny"
    assert completion.id.startswith("cmpl-")
    assert [(c.index, c.text, c.finish_reason) for c in completion.choices] == [(0, " world", "length")]
    assert completion.usage is not None
    assert completion.usage.to_dict() == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    [request] = worker.requests
    assert (request.model_name, request.id) == ("tiny", completion.id)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [{"prompt": [b"a"]}]),
        (["a", "b"], [{"prompt": [b"a"]}, {"prompt": [b"b"]}]),
        ([1, 2], [{"prompt_token_ids": [1, 2]}]),
        ([[1, 2], [3]], [{"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [3]}]),
    ],
)
async def test_each_form_of_prompt_becomes_its_tensors(prompt: object, expected: list[dict[str, Any]]) -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        reply = await sidecar.complete(prompt=prompt)
    assert reply.status == 200
    requests = sorted(worker.requests, key=lambda request: request.id)
    assert [{**inputs_of(request)} for request in requests] == [{**want, "max_tokens": [16]} for want in expected]
    assert len({request.id for request in requests}) == len(expected)


async def test_choices_of_several_prompts_are_numbered_consecutively_and_their_usage_is_summed() -> None:
    async with running(FakeWorker(echo)) as sidecar:
        reply = await sidecar.complete(prompt=["a", "b"], n=2)
    completion = exact(Completion, reply.json)
    assert [(c.index, c.text) for c in completion.choices] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (6, 8)


async def test_more_prompts_than_are_in_flight_at_a_time_are_answered() -> None:
    async with running(FakeWorker()) as sidecar:
        whole_reply = await sidecar.complete(prompt=[str(i) for i in range(50)])
        stream = await sidecar.complete(prompt=[str(i) for i in range(50)], stream=True)
    assert [choice["text"] for choice in whole_reply.json["choices"]] == [str(i) for i in range(50)]
    choices = [choice for event in stream.events for choice in event["choices"]]
    streamed = {choice["index"]: choice["text"] for choice in choices if choice["text"]}
    assert streamed == {i: str(i) for i in range(50)}


async def test_every_sampling_field_arrives_as_its_tensor() -> None:
    worker = FakeWorker()
    fields: dict[str, Any] = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "presence_penalty": -1,
        "frequency_penalty": 1.5,
        "repetition_penalty": 2,
        "seed": 42,
        "n": 2,
    }
    async with running(worker) as sidecar:
        assert (await sidecar.complete(prompt="a", stop=["x", "é"], **fields)).status == 200
    expected = {name: [value] for name, value in fields.items()}
    assert inputs_of(worker.requests[0]) == {**expected, "prompt": [b"a"], "stop": [b"x", "é".encode()]}


async def test_a_field_for_which_the_model_has_no_input_is_refused() -> None:
    worker = FakeWorker(inputs=["prompt", "max_tokens"])
    async with running(worker) as sidecar:
        refused = await sidecar.complete(prompt="a", min_p=0.5)
        assert (await sidecar.complete(prompt=[1])).error["param"] == "prompt"
        # These values are the defaults.
        assert (await sidecar.complete(prompt="a", min_p=0, n=1, temperature=1)).status == 200
    assert refused.status == 400
    assert (refused.error["param"], refused.error["code"]) == ("min_p", "unsupported_parameter")


async def test_a_default_of_ours_is_not_sent_to_a_model_without_that_input() -> None:
    worker = FakeWorker(inputs=["prompt"])
    async with running(worker) as sidecar:
        assert (await sidecar.complete(prompt="a")).status == 200
        assert (await sidecar.complete(prompt="a", max_tokens=3)).error["param"] == "max_tokens"
    assert inputs_of(worker.requests[0]) == {"prompt": [b"a"]}


@pytest.mark.parametrize("unimplemented", [("ModelMetadata",), ("ModelConfig",), ("ModelMetadata", "ModelConfig")])
async def test_a_backend_without_the_optional_calls_is_supported(unimplemented: tuple[str, ...]) -> None:
    async with running(FakeWorker(unimplemented=unimplemented)) as sidecar:
        assert (await sidecar.complete(prompt="a", min_p=0.5)).status == 200


async def test_a_backend_that_sends_raw_contents_is_supported() -> None:
    raw = message((contract.TEXT, [b"x"]), (contract.FINISH_REASON, [b"stop"]), raw=True)
    async with running(FakeWorker(answers(raw))) as sidecar:
        reply = await sidecar.complete(prompt="a")
    assert reply.json["choices"][0]["text"] == "x"
    assert reply.json["usage"] is None  # the backend reports no counts


async def test_a_malformed_response_is_a_bad_gateway() -> None:
    for response in (whole("a", "b"), message(), message((contract.SEED, [1]))):
        async with running(FakeWorker(answers(response))) as sidecar:
            reply = await sidecar.complete(prompt="a")
        assert (reply.status, reply.error["type"]) == (502, "server_error")


async def test_the_default_inputs_are_those_of_the_contract() -> None:
    assert set(ALL_INPUTS) == {spec.name for spec in contract.INPUTS}
