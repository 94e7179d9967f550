import pytest

from anyserve_worker.core.origin import Origin, read_origin
from protos.grpc_predict_v2_pb2 import ModelInferRequest

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def request(id: str = "cmpl-1", **parameters: str) -> ModelInferRequest:
    message = ModelInferRequest(id=id)
    for name, value in parameters.items():
        message.parameters[name].string_param = value
    return message


def test_the_origin_of_a_call_comes_from_its_metadata() -> None:
    trace = (("traceparent", PARENT), ("tracestate", "a=1"))
    metadata = (("x-request-id", "mine"), *trace, ("user-agent", "x"), ("x-bin", b"\0"))
    assert read_origin(request(), metadata) == Origin("cmpl-1", "mine", PARENT, "a=1")


def test_the_origin_of_a_request_on_a_shared_stream_comes_from_its_parameters() -> None:
    shared = request(anyserve_request_id="mine", anyserve_traceparent=PARENT, anyserve_tracestate="a=1")
    assert read_origin(shared, (("x-request-id", "the call's"),)) == Origin("cmpl-1", "mine", PARENT, "a=1")


def test_a_trace_state_without_a_trace_is_left_out() -> None:
    assert read_origin(request(anyserve_tracestate="a=1")) == Origin("cmpl-1")
    assert read_origin(request(anyserve_traceparent=PARENT, anyserve_tracestate="a")) == Origin("cmpl-1", "", PARENT)


def test_a_request_without_metadata_or_parameters_has_an_empty_origin() -> None:
    assert read_origin(ModelInferRequest()) == Origin()


@pytest.mark.parametrize("bad", ["", "two words", "a\nb", "\x1b[0m", "ä", "x" * 129, "a\n"])
def test_values_that_would_break_a_log_line_are_left_out(bad: str) -> None:
    assert read_origin(request(bad, anyserve_request_id=bad, anyserve_traceparent=bad)) == Origin()


def test_a_parameter_of_another_type_is_left_out() -> None:
    message = ModelInferRequest()
    message.parameters["anyserve_request_id"].int64_param = 5
    assert read_origin(message) == Origin()
