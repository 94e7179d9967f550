import pytest

from openai_server.backends.dialects.anyserve.load import load_request, read_load
from openai_server.core.errors import BackendError
from openai_server.core.load import BackendLoad
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferResponse
from tests.wire.fake_worker import message


def load_response(*figures: int, raw: bool = False) -> ModelInferResponse:
    return message(*[(spec, [n]) for spec, n in zip(contract.LOAD_OUTPUTS, figures, strict=False)], raw=raw)


def test_the_request_names_only_the_outputs_that_are_read() -> None:
    request = load_request()
    assert (request.model_name, request.model_version) == ("model_info", "llamacpp")
    assert [output.name for output in request.outputs] == [spec.name for spec in contract.LOAD_OUTPUTS]


@pytest.mark.parametrize("raw", [False, True])
def test_both_forms_of_tensors_are_read(raw: bool) -> None:
    assert read_load(load_response(1, 2, 40, 30, raw=raw)) == BackendLoad(1, 2, 40, 30)


@pytest.mark.parametrize("figures", [(1, 2, 40), (), (-1, 2, 40, 30), (1, 2, 30, 40)])
def test_missing_and_impossible_figures_are_errors(figures: tuple[int, ...]) -> None:
    with pytest.raises(BackendError):
        read_load(load_response(*figures))


def test_an_output_without_elements_is_an_error() -> None:
    response = load_response(1, 2, 40, 30)
    response.outputs[0].shape[0] = 0
    response.outputs[0].contents.int_contents.pop()
    with pytest.raises(BackendError):
        read_load(response)
