"""The request for the load of a bundled worker, and its response. PURE."""

from openai_server.core.errors import BackendError
from openai_server.core.load import BackendLoad
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse


def load_request() -> ModelInferRequest:
    message = ModelInferRequest(model_name=contract.ANYSERVE_MODEL_INFO, model_version=contract.ANYSERVE_VERSION)
    for spec in contract.LOAD_OUTPUTS:
        message.outputs.add(name=spec.name)
    return message


def read_load(response: ModelInferResponse) -> BackendLoad:
    """Raises BackendError if a figure is missing or not a number that it can be."""
    try:
        outputs = tensors.read_outputs(response)
        waiting, running, cells, cells_running = (int(outputs[spec.name].elements[0]) for spec in contract.LOAD_OUTPUTS)
    except (tensors.TensorError, KeyError, IndexError, ValueError) as error:
        raise BackendError("UNKNOWN", f"The backend's load is malformed: {error}") from None
    if min(waiting, running, cells, cells_running) < 0 or cells_running > cells:
        raise BackendError("UNKNOWN", "The backend's load has impossible values.")
    return BackendLoad(waiting, running, cells, cells_running)
