"""Long prompts, short prompts and several callers on a real worker: the order of responses, never their speed."""

import threading
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
    """Serves a model with two slots. Beside the cached cells there is room for two sequences of 640 tokens, or one of
    1,024."""
    model = ("--model", f"{SMOLLM2}={smollm2_path()}")
    options = (*model, "--n-ctx", "1024", "--kv-cells", "2560", "--parallel", "2", "--threads", "1")
    with servers.worker(*options) as (_, address), servers.stub(address) as stub:
        yield stub


def request(number: int, length: int, caller: str = "", **inputs: Any) -> pb.ModelInferRequest:
    """Returns a request whose prompt has no common prefix with others."""
    tokens = [1000 + number, *[2000 + (number * 7919 + k * 31) % 40000 for k in range(length - 1)]]
    message = infer(SMOLLM2, tokens, temperature=0.0, ignore_eos=True, **inputs)
    if caller:
        message.parameters[contract.PARAM_CALLER].string_param = caller
    return message


def wait_for_steps(service: Service, before: int) -> None:
    servers.eventually(lambda: servers.statistics(service, SMOLLM2).execution_count > before)


def test_a_short_prompt_is_answered_before_long_ones_that_came_first(own_service: Service) -> None:
    before = servers.statistics(own_service, SMOLLM2).execution_count
    longs = [own_service.ModelInfer.future(request(k, 900, max_tokens=1), timeout=TIMEOUT) for k in range(3)]
    wait_for_steps(own_service, before)
    short = outputs(own_service.ModelInfer(request(9, 60, max_tokens=2), timeout=TIMEOUT))
    assert sum(long.done() for long in longs) <= 1
    assert (short["prompt_tokens"], short["completion_tokens"]) == ([60], [2])
    for long in longs:
        assert outputs(long.result())["prompt_tokens"] == [900]


class Stream:
    """A stream that a thread reads."""

    def __init__(self, service: Service, message: pb.ModelInferRequest) -> None:
        self.n_tokens = 0
        self._began = threading.Event()
        self._call = service.ModelStreamInfer(iter([message]))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for response in self._call:
            self.n_tokens += len(outputs(response.infer_response)["token"])
            self._began.set()

    def wait_for_first(self) -> None:
        assert self._began.wait(TIMEOUT)

    def wait_for_end(self) -> int:
        self._thread.join(TIMEOUT)
        return self.n_tokens


def test_a_short_prompt_is_answered_while_long_ones_hold_all_slots(own_service: Service) -> None:
    running = [Stream(own_service, request(20 + k, 520, max_tokens=120)) for k in range(2)]
    for stream in running:
        stream.wait_for_first()
    waiting = own_service.ModelInfer.future(request(28, 520, max_tokens=1), timeout=TIMEOUT)
    outputs(own_service.ModelInfer(request(29, 30, max_tokens=2), timeout=TIMEOUT))
    assert all(stream.n_tokens < 120 for stream in running)
    assert not waiting.done()
    assert [stream.wait_for_end() for stream in running] == [120, 120]
    assert outputs(waiting.result())["prompt_tokens"] == [520]


def test_a_short_prompt_is_answered_while_a_long_one_holds_all_cells(own_service: Service) -> None:
    running = Stream(own_service, request(30, 900, max_tokens=124))
    running.wait_for_first()
    waiting = own_service.ModelInfer.future(request(31, 1000, max_tokens=1), timeout=TIMEOUT)
    outputs(own_service.ModelInfer(request(39, 137, max_tokens=2), timeout=TIMEOUT))
    assert running.n_tokens < 124
    assert not waiting.done()
    assert running.wait_for_end() == 124
    assert outputs(waiting.result())["prompt_tokens"] == [1000]


def test_a_caller_with_one_prompt_does_not_wait_for_another_callers_many(own_service: Service) -> None:
    before = servers.statistics(own_service, SMOLLM2).execution_count
    calls = [own_service.ModelInfer.future(request(40 + k, 520, "many", max_tokens=1)) for k in range(6)]
    wait_for_steps(own_service, before)
    outputs(own_service.ModelInfer(request(59, 520, "one", max_tokens=1), timeout=TIMEOUT))
    assert sum(call.done() for call in calls) <= 3
    for call in calls:
        call.result(timeout=TIMEOUT)
