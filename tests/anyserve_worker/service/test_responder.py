"""Deltas to tensors: the contents of responses, in the wire form (typed or raw) of their request."""

import math
from dataclasses import replace
from typing import Any

import pytest

from anyserve_worker.core.delta import Delta, merge
from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.core.logprob import TokenLogprob
from anyserve_worker.core.request_timer import Progress, Times
from anyserve_worker.service.responder import Responder
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferResponse
from protos.tensors import read_outputs
from tests.anyserve_worker.service.test_request import Build, forms, raw, typed


def delta(
    index: int = 0, text: str = "", reason: str | None = None, n: int = 1, cached: int = 4, *logprobs: TokenLogprob
) -> Delta:
    return Delta(index, text, reason, completion_tokens=n, prompt_tokens=9, cached_tokens=cached, logprobs=logprobs)


def values(response: ModelInferResponse) -> dict[str, list[Any]]:
    return {name: list(t.elements) for name, t in read_outputs(response).items()}


ANSWER = [delta(1, "b", n=1), delta(0, "a", n=1), delta(1, "", "length", n=2), delta(0, "é", "stop", n=3)]


@forms
def test_a_unary_answer_has_the_whole_text_of_each_choice(form: Build) -> None:
    message = form(prompt=[b"x"])
    message.id = "7"
    response = Responder(message, "served", contract.UNARY_OUTPUTS).unary(ANSWER)
    assert values(response) == {
        "text": ["aé".encode(), b"b"],
        "finish_reason": [b"stop", b"length"],
        "model": [b"served"],
        "prompt_tokens": [9],
        "cached_tokens": [4],
        "completion_tokens": [3, 2],
    }
    assert (response.id, response.model_name, response.model_version) == ("7", "m", "1")
    assert bool(response.raw_output_contents) == (form is raw)
    assert all(t.HasField("contents") == (form is typed) for t in response.outputs)


@forms
def test_outputs_have_the_shapes_and_datatypes_of_the_contract(form: Build) -> None:
    message = form(prompt=[b"x"])
    scored = delta(0, "a", None, 1, 4, TokenLogprob(b"a", -1.0, ((b"b", -0.5),)))
    timed = replace(scored, progress=(Progress(4, 0.0), Progress(9, 2.5)))
    deltas = [replace(part, marked_tokens=1, times=Times(2.5, 7.5)) for part in (timed, *ANSWER)]
    unary = Responder(message, "m", contract.UNARY_OUTPUTS).unary(deltas)
    stream = Responder(message, "m", contract.STREAM_OUTPUTS).stream(merge(deltas), final=True)
    for response, specs in ((unary, contract.UNARY_OUTPUTS), (stream, contract.STREAM_OUTPUTS)):
        outputs = read_outputs(response)
        assert list(outputs) == [spec.name for spec in specs]
        for spec in specs:
            assert outputs[spec.name].datatype == spec.datatype
            assert spec.accepts_shape(outputs[spec.name].shape)


@forms
def test_a_stream_response_before_the_end_has_no_counts(form: Build) -> None:
    response = Responder(form(prompt=[b"x"]), "m", contract.STREAM_OUTPUTS).stream(
        [delta(0, "a"), delta(2, "b")], final=False
    )
    assert values(response) == {"token": [b"a", b"b"], "index": [0, 2], "finish_reason": [b"null", b"null"]}
    assert response.parameters["triton_final_response"].bool_param is False
    assert response.parameters["triton_final_response"].WhichOneof("parameter_choice") == "bool_param"


@forms
def test_a_stream_response_with_the_beginning_of_a_choice_has_the_counts_of_the_prompt(form: Build) -> None:
    begun = replace(delta(2, "b"), begins=True)
    response = Responder(form(prompt=[b"x"]), "m", contract.STREAM_OUTPUTS).stream([delta(0, "a"), begun], final=False)
    assert values(response) == {
        "token": [b"a", b"b"],
        "index": [0, 2],
        "finish_reason": [b"null", b"null"],
        "prompt_tokens": [9],
        "cached_tokens": [4],
    }


@forms
def test_a_stream_response_with_the_end_of_a_choice_has_counts(form: Build) -> None:
    response = Responder(form(prompt=[b"x"]), "m", contract.STREAM_OUTPUTS).stream(
        [delta(0, "a", n=3), delta(1, "", "stop", n=2)], final=True
    )
    assert values(response) == {
        "token": [b"a", b""],
        "index": [0, 1],
        "finish_reason": [b"null", b"stop"],
        "prompt_tokens": [9],
        "cached_tokens": [4],
        "completion_tokens": [3, 2],
    }
    assert response.parameters["triton_final_response"].bool_param is True


@forms
def test_every_response_to_a_timed_request_has_times_and_counts(form: Build) -> None:
    responder = Responder(form(prompt=[b"x"]), "m", contract.STREAM_OUTPUTS)
    early, late = replace(delta(0, "a"), times=Times(2.5, 0.5)), replace(delta(1, "b", n=2), times=Times(2.5, 7.5))
    tensors = values(responder.stream([late, early], final=False))
    assert (tensors["prompt_ms"], tensors["completion_ms"]) == ([2.5], [7.5])
    assert (tensors["prompt_tokens"], tensors["cached_tokens"], tensors["completion_tokens"]) == ([9], [4], [2, 1])


@forms
def test_progress_comes_with_or_without_output(form: Build) -> None:
    responder = Responder(form(prompt=[b"x"]), "m", contract.STREAM_OUTPUTS)
    steps = [
        replace(delta(0), progress=(Progress(4, 0.0), Progress(6, 1.5))),
        replace(delta(0), progress=(Progress(9, 3.5),)),
    ]
    assert values(responder.stream(merge(steps), final=False)) == {
        "prompt_tokens": [9],
        "cached_tokens": [4],
        "progress_tokens": [4, 6, 9],
        "progress_ms": [0.0, 1.5, 3.5],
    }
    with_token = values(responder.stream(merge([*steps, replace(delta(0, "a"), begins=True)]), final=False))
    assert (with_token["token"], with_token["prompt_tokens"], with_token["progress_tokens"]) == ([b"a"], [9], [4, 6, 9])


@forms
def test_a_final_response_may_be_empty(form: Build) -> None:
    message = form(prompt=[b"x"])
    message.id = "i"
    response = Responder(message, "m", contract.STREAM_OUTPUTS).stream([], final=True)
    assert (len(response.outputs), len(response.raw_output_contents), response.id) == (0, 0, "i")
    assert response.parameters["triton_final_response"].bool_param is True


@forms
def test_only_requested_outputs_are_returned(form: Build) -> None:
    message = form(prompt=[b"x"])
    for name in ("finish_reason", "text", "text"):
        message.outputs.add(name=name)
    response = Responder(message, "m", contract.UNARY_OUTPUTS).unary([delta(0, "a", "stop")])
    assert values(response) == {"text": [b"a"], "finish_reason": [b"stop"]}
    assert len(response.raw_output_contents) == (2 if form is raw else 0)


@pytest.mark.parametrize("name", ["logits", "token", ""])
def test_an_output_that_the_call_does_not_produce_is_rejected(name: str) -> None:
    message = typed(prompt=[b"x"])
    message.outputs.add(name="text")
    message.outputs.add(name=name)
    with pytest.raises(InvalidRequest, match=f"output '{name}': not produced by this call"):
        Responder(message, "m", contract.UNARY_OUTPUTS)


def test_too_many_outputs_are_rejected() -> None:
    message = typed(prompt=[b"x"])
    for _ in range(257):
        message.outputs.add(name="text")
    with pytest.raises(InvalidRequest, match="257 outputs, at most 256"):
        Responder(message, "m", contract.UNARY_OUTPUTS)


def test_a_response_has_the_requested_name_and_version() -> None:
    message = typed(prompt=[b"x"])
    message.model_name, message.model_version = "generate", "llamacpp"
    response = Responder(message, "m", contract.UNARY_OUTPUTS).build([])
    assert (response.model_name, response.model_version) == ("generate", "llamacpp")


FIRST = TokenLogprob(b"\xc3", math.nan)
SECOND = TokenLogprob(b"\xa9", -0.5, ((b"\xa9", -0.5), (b"x", -1.5)))
THIRD = TokenLogprob(b"", -2.0, ((b"y", -0.25), (b"", -2.0)))


@forms
def test_log_probabilities_have_the_index_of_their_choice(form: Build) -> None:
    choices = [delta(1, "é", None, 2, 4, FIRST, SECOND), delta(0, "", "stop", 1, 4, THIRD)]
    responder = Responder(form(prompt=[b"x"]), "m", contract.STREAM_OUTPUTS)
    tensors = values(responder.stream(choices, final=False))
    assert tensors["logprob_index"] == [1, 1, 0]
    assert tensors["logprob_token"] == [b"\xc3", b"\xa9", b""]
    assert [str(x) for x in tensors["logprob"]] == ["nan", "-0.5", "-2.0"]
    assert tensors["top_logprob_token"] == [b"", b"", b"\xa9", b"x", b"y", b""]
    assert [str(x) for x in tensors["top_logprob"]] == ["nan", "nan", "-0.5", "-1.5", "-0.25", "-2.0"]


@forms
def test_top_log_probabilities_may_be_empty(form: Build) -> None:
    tensors = values(
        Responder(form(prompt=[b"x"]), "m", contract.UNARY_OUTPUTS).unary(
            [delta(0, "a", None, 1, 4, TokenLogprob(b"a", -1.0)), delta(0, "b", "stop", 2, 4, TokenLogprob(b"b", -2.0))]
        )
    )
    assert tensors["text"] == [b"ab"]
    assert (tensors["logprob_index"], tensors["logprob_token"], tensors["logprob"]) == (
        [0, 0],
        [b"a", b"b"],
        [-1.0, -2.0],
    )
    assert tensors["top_logprob_token"] == tensors["top_logprob"] == []
