"""Rows to step batches: whatever gathers in one message, the client reads the same."""

import asyncio
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.core.delta import Delta
from anyserve_worker.service.outbox import MAX_RESPONSES, Outbox
from anyserve_worker.service.step_batch import Row, step_batch
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferResponse, ModelStreamInferResponse


def row(number: int, text: str, index: int = 0, reason: str | None = None, completion: int = 1) -> Row:
    return number, Delta(index, text, reason, completion, prompt_tokens=number + 10, cached_tokens=number)


def read(response: ModelInferResponse) -> dict[str, list[Any]]:
    return {name: list(tensor.elements) for name, tensor in tensors.read_outputs(response).items()}


def test_tensors_are_those_of_the_contract() -> None:
    specs = {spec.name: spec for spec in contract.STEP_BATCH}
    response = step_batch([row(1, "a"), row(2, "é", reason="stop")])
    assert {output.name for output in response.outputs} == set(specs) - {"marked_tokens"}
    for output in response.outputs:
        assert output.datatype == specs[output.name].datatype
        assert specs[output.name].accepts_shape(tuple(output.shape))
    assert not response.raw_output_contents
    assert read(response) == {
        "request": [1, 2],
        "token": [b"a", "é".encode()],
        "index": [0, 0],
        "finish_reason": [b"null", b"stop"],
        "prompt_tokens": [11, 12],
        "cached_tokens": [1, 2],
        "completion_tokens": [1, 1],
    }


def test_without_an_end_there_are_only_texts() -> None:
    assert list(read(step_batch([row(1, "a")]))) == ["request", "token", "index"]


rows = st.lists(
    st.builds(row, st.integers(0, 2), st.text(max_size=3), st.integers(0, 1), completion=st.integers(1, 9)), min_size=1
)


@given(rows=rows, cuts=st.lists(st.integers(0, 20)))
def test_any_gathering_gives_the_same_texts(rows: list[Row], cuts: list[int]) -> None:
    whole: dict[tuple[int, int], str] = defaultdict(str)
    for number, delta in rows:
        whole[number, delta.index] += delta.text
    told: dict[tuple[int, int], bytes] = defaultdict(bytes)
    at = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    for begin, end in pairwise(at):
        batch = read(step_batch(rows[begin:end]))
        keys = list(zip(batch["request"], batch["index"], strict=True))
        assert len(set(keys)) == len(keys)
        for key, token in zip(keys, batch["token"], strict=True):
            told[key] += token
    assert {key: text.decode() for key, text in told.items()} == whole


def test_the_counts_are_the_last() -> None:
    batch = read(step_batch([row(1, "a", completion=1), row(2, "b"), row(1, "c", reason="length", completion=2)]))
    assert (batch["request"], batch["token"], batch["completion_tokens"]) == ([1, 2], [b"ac", b"b"], [2, 1])
    assert batch["finish_reason"] == [b"length", b"null"]


# ---- What waits


async def test_what_gathers_while_nobody_reads_is_one_message() -> None:
    sent: list[int] = []
    outbox = Outbox(sent.append)
    answers = aiter(outbox)
    for i in range(1000):
        outbox.add_row(row(i % 4, "x", reason="stop" if i >= 996 else None), ends=i >= 996)
    batch = read((await anext(answers)).infer_response)
    assert (batch["request"], batch["token"]) == ([0, 1, 2, 3], [b"x" * 250] * 4)
    assert sent == []
    outbox.close()
    with pytest.raises(StopAsyncIteration):
        await anext(answers)
    assert sent == [4]


async def test_an_error_comes_behind_the_rows_of_its_request_and_others_do_not_hold_it_up() -> None:
    outbox = Outbox(lambda _: None)
    answers = aiter(outbox)
    outbox.add_row(row(1, "a"), ends=False)
    outbox.add(ModelStreamInferResponse(error_message="no"))
    assert read((await anext(answers)).infer_response)["token"] == [b"a"]
    outbox.add_row(row(2, "b"), ends=False)
    assert (await anext(answers)).error_message == "no"
    outbox.close()
    assert read((await anext(answers)).infer_response)["token"] == [b"b"]
    with pytest.raises(StopAsyncIteration):
        await anext(answers)


async def test_responses_of_single_requests_wait_for_a_place() -> None:
    outbox = Outbox(lambda _: None)
    for _ in range(MAX_RESPONSES):
        await outbox.put(ModelStreamInferResponse(), ends=False)
    waiting = asyncio.create_task(outbox.put(ModelStreamInferResponse(error_message="last"), ends=True))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.add(ModelStreamInferResponse(error_message="at once"))
    answers = aiter(outbox)
    said = [(await anext(answers)).error_message for _ in range(MAX_RESPONSES + 2)]
    assert said[-2:] == ["at once", "last"]
    await waiting


def test_a_mark_is_told_of_whoever_asked() -> None:
    marked = (1, replace(row(1, "a", reason="stop")[1], marked_tokens=3))
    told = read(step_batch([marked, row(2, "b")]))
    assert told["marked_tokens"] == [3, -1]
