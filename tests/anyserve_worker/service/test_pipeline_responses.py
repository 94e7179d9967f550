"""Events of pipelines as tensors, in whole answers and streams."""

from typing import Any

import pytest

from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.pipelines.core.events import (
    Arguments,
    Event,
    Finish,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
    encode,
)
from anyserve_worker.service.pipeline_responses import PipelineResponder
from protos.grpc_predict_v2_pb2 import ModelInferRequest
from tests.anyserve_worker.service.fakes import outputs

EVENTS: tuple[Event, ...] = (
    Reasoning("hm"),
    Text("b", 1),
    Text("a"),
    Refusal("!"),
    ToolCall("f"),
    Arguments("{}"),
    Finish("tool_calls"),
    Finish("length", 1),
    Usage(3, 4, 2),
)


def responder(*names: str, streams: bool = False) -> PipelineResponder:
    message = ModelInferRequest(model_name="m", id="7")
    for name in names:
        message.outputs.add(name=name)
    return PipelineResponder(message, "m", streams=streams)


def data(*events: Event) -> list[bytes]:
    return [encode(event) for event in events]


@pytest.mark.parametrize("names", [(), ("events",), ("events", "text")])
def test_a_whole_answer_has_events_unless_others_are_named(names: tuple[str, ...]) -> None:
    assert outputs(responder(*names).whole(data(*EVENTS))) == {"events": data(*EVENTS)}


def test_a_whole_answer_in_text_has_an_element_for_each_choice() -> None:
    names = ("text", "finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens")
    assert outputs(responder(*names).whole(data(*EVENTS))) == {
        "text": [b"a!", b"b"],
        "finish_reason": [b"tool_calls", b"length"],
        "prompt_tokens": [3],
        "cached_tokens": [2],
    }
    single = data(Text("x"), Usage(1, 2), Finish())
    assert outputs(responder(*names).whole(single)) == {
        "text": [b"x"],
        "finish_reason": [b"stop"],
        "prompt_tokens": [1],
        "completion_tokens": [2],
    }


def streamed(*events: Event, final: bool = False) -> dict[str, list[Any]] | None:
    names = ("token", "index", "finish_reason", "prompt_tokens", "completion_tokens")
    response = responder(*names, streams=True).stream(data(*events), final=final)
    if response is None:
        return None
    assert response.parameters["triton_final_response"].bool_param is final
    return outputs(response)


def test_a_stream_in_text_has_an_element_for_each_choice_that_moved() -> None:
    assert streamed(Text("a"), Text("b"), Text("c", 1)) == {
        "token": [b"ab", b"c"],
        "index": [0, 1],
        "finish_reason": [b"null", b"null"],
    }
    assert streamed(Text("x"), Finish("length"), Usage(1, 2), final=True) == {
        "token": [b"x"],
        "index": [0],
        "finish_reason": [b"length"],
        "prompt_tokens": [1],
        "completion_tokens": [2],
    }
    assert streamed(Finish()) == {"token": [b""], "index": [0], "finish_reason": [b"stop"]}


def test_events_without_text_are_sent_only_to_mark_the_end() -> None:
    assert streamed(Reasoning("hm"), ToolCall("f")) is None
    assert streamed(Reasoning("hm"), final=True) == {}


def test_a_stream_of_events_keeps_them() -> None:
    response = responder(streams=True).stream(data(*EVENTS), final=True)
    assert response
    assert outputs(response) == {"events": data(*EVENTS)}
    assert responder(streams=True).stream([], final=False) is None


def test_text_that_is_no_unicode_is_replaced() -> None:
    assert outputs(responder("text").whole([b'{"type":"text","text":"\\ud800"}', *data(Finish())])) == {"text": [b"?"]}


@pytest.mark.parametrize(("name", "streams"), [("token", False), ("text", True), ("embedding", False)])
def test_outputs_of_other_calls_are_refused(name: str, streams: bool) -> None:
    with pytest.raises(InvalidRequest, match=f"output '{name}': not produced by this call"):
        responder(name, streams=streams)
