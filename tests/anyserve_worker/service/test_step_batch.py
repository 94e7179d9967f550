"""Rows to step batches: the client reads the same text however rows are grouped into messages."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.core.delta import Delta
from anyserve_worker.service.step_batch import Row, split, step_batch
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferResponse


def row(number: int, text: str, index: int = 0, reason: str | None = None, completion: int = 1) -> Row:
    return number, Delta(index, text, reason, completion, prompt_tokens=number + 10, cached_tokens=number)


def read(response: ModelInferResponse) -> dict[str, list[Any]]:
    return {name: list(tensor.elements) for name, tensor in tensors.read_outputs(response).items()}


def test_outputs_have_the_shapes_and_datatypes_of_the_contract() -> None:
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


def test_a_batch_without_an_end_has_only_texts() -> None:
    assert list(read(step_batch([row(1, "a")]))) == ["request", "token", "index"]


def test_a_batch_with_a_beginning_has_the_counts_of_the_prompts() -> None:
    begun = (1, replace(row(1, "a")[1], begins=True))
    assert read(step_batch([begun, row(2, "b")])) == {
        "request": [1, 2],
        "token": [b"a", b"b"],
        "index": [0, 0],
        "prompt_tokens": [11, 12],
        "cached_tokens": [1, 2],
    }
    merged = read(step_batch([begun, row(1, "c", completion=2)]))
    assert (merged["token"], merged["prompt_tokens"]) == ([b"ac"], [11])


rows = st.lists(
    st.builds(row, st.integers(0, 2), st.text(max_size=3), st.integers(0, 1), completion=st.integers(1, 9)), min_size=1
)


@given(rows=rows, cuts=st.lists(st.integers(0, 20)))
def test_any_grouping_of_rows_gives_the_same_texts(rows: list[Row], cuts: list[int]) -> None:
    whole: dict[tuple[int, int], str] = defaultdict(str)
    for number, delta in rows:
        whole[number, delta.index] += delta.text
    texts: dict[tuple[int, int], bytes] = defaultdict(bytes)
    borders = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    for begin, end in pairwise(borders):
        batch = read(step_batch(rows[begin:end]))
        keys = list(zip(batch["request"], batch["index"], strict=True))
        assert len(set(keys)) == len(keys)
        for key, token in zip(keys, batch["token"], strict=True):
            texts[key] += token
    assert {key: text.decode() for key, text in texts.items()} == whole


def test_a_batch_has_the_last_counts_of_each_request() -> None:
    batch = read(step_batch([row(1, "a", completion=1), row(2, "b"), row(1, "c", reason="length", completion=2)]))
    assert (batch["request"], batch["token"], batch["completion_tokens"]) == ([1, 2], [b"ac", b"b"], [2, 1])
    assert batch["finish_reason"] == [b"length", b"null"]


def test_marked_tokens_are_minus_one_for_requests_without_a_mark() -> None:
    marked = (1, replace(row(1, "a", reason="stop")[1], marked_tokens=3))
    batch = read(step_batch([marked, row(2, "b")]))
    assert batch["marked_tokens"] == [3, -1]


@pytest.mark.parametrize("character", ["a", "é", "漢", "😀"])
def test_rows_are_split_by_their_bytes(character: str) -> None:
    size = len(character.encode())
    rows = [row(i, character * n) for i, n in enumerate((3, 3, 3, 20, 0, 1, 9, *[1] * 25))]
    parts = list(split(rows, 10 * size))
    assert [len(part) for part in parts] == [3, 1, 3, 10, 10, 5]
    assert [item for part in parts for item in part] == rows
