"""Long prompts, short prompts and several callers on a real worker: the order in which answers come, never how fast."""

from collections.abc import Iterator
from typing import Any

import pytest

from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2
from tests.e2e.messages import infer, outputs
from tests.models import smollm2_path

Service = GRPCInferenceServiceStub
TIMEOUT = 300


@pytest.fixture(scope="module")
def own_service() -> Iterator[Service]:
    """A worker with two slots, and cells for one sequence that fills the context."""
    options = ("--model", f"{SMOLLM2}={smollm2_path()}", "--n-ctx", "1024", "--parallel", "2", "--threads", "1")
    with servers.worker(*options) as (_, address), servers.stub(address) as stub:
        yield stub


def request(number: int, length: int, caller: str = "", **inputs: Any) -> pb.ModelInferRequest:
    """Its prompt begins like no other."""
    tokens = [1000 + number, *[2000 + (number * 7919 + k * 31) % 40000 for k in range(length - 1)]]
    message = infer(SMOLLM2, tokens, temperature=0.0, ignore_eos=True, **inputs)
    if caller:
        message.parameters[contract.PARAM_CALLER].string_param = caller
    return message


def begun(service: Service, before: int) -> None:
    servers.eventually(lambda: servers.statistics(service, SMOLLM2).execution_count > before)


def test_a_short_prompt_is_answered_before_the_long_ones_that_came_first(own_service: Service) -> None:
    before = servers.statistics(own_service, SMOLLM2).execution_count
    longs = [own_service.ModelInfer.future(request(k, 900, max_tokens=1), timeout=TIMEOUT) for k in range(3)]
    begun(own_service, before)
    short = outputs(own_service.ModelInfer(request(9, 60, max_tokens=2), timeout=TIMEOUT))
    assert sum(long.done() for long in longs) <= 1
    assert (short["prompt_tokens"], short["completion_tokens"]) == ([60], [2])
    for long in longs:
        assert outputs(long.result())["prompt_tokens"] == [900]


def test_a_short_prompt_comes_through_where_long_ones_hold_all_slots(own_service: Service) -> None:
    longs = [own_service.ModelStreamInfer(iter([request(20 + k, 520, max_tokens=100)])) for k in range(3)]
    next(longs[0])
    next(longs[1])  # Both generate, and the third one waits for a slot.
    outputs(own_service.ModelInfer(request(29, 30, max_tokens=2), timeout=TIMEOUT))
    assert sum(1 for _ in longs[1]) > 50, "it was far from its end"
    for long in longs:
        long.cancel()


def test_a_short_prompt_comes_through_where_a_long_one_holds_all_cells(own_service: Service) -> None:
    running = own_service.ModelStreamInfer(iter([request(30, 900, max_tokens=124)]))
    waiting = own_service.ModelInfer.future(request(31, 1000, max_tokens=1), timeout=TIMEOUT)
    next(running)
    outputs(own_service.ModelInfer(request(39, 137, max_tokens=2), timeout=TIMEOUT))
    assert not waiting.done()
    n_left = sum(len(outputs(response.infer_response)["token"]) for response in running)
    assert n_left > 50, "it was far from its end"
    assert outputs(waiting.result())["prompt_tokens"] == [1000]


def test_a_caller_with_one_prompt_does_not_wait_for_another_callers_many(own_service: Service) -> None:
    before = servers.statistics(own_service, SMOLLM2).execution_count
    many = [own_service.ModelInfer.future(request(40 + k, 520, "many", max_tokens=1)) for k in range(6)]
    begun(own_service, before)
    outputs(own_service.ModelInfer(request(59, 520, "one", max_tokens=1), timeout=TIMEOUT))
    assert sum(one.done() for one in many) <= 3
    for one in many:
        one.result(timeout=TIMEOUT)
