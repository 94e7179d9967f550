"""The model of AnyServe's first server, from its capability `model_info`. PURE."""

from openai_server.backends.dialects.anyserve.decode import Outputs
from openai_server.core.errors import BackendError
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

SERVERS = frozenset({"anyserve", "anyserve-ingress"})
"""Names of the server in ServerMetadata."""


def info_request() -> ModelInferRequest:
    return ModelInferRequest(model_name=contract.ANYSERVE_MODEL_INFO, model_version=contract.ANYSERVE_VERSION)


def model_name(response: ModelInferResponse) -> str:
    """Raises BackendError if the response has no name."""
    names = Outputs(response).texts(contract.MODEL_NAME)
    if not names:
        raise BackendError("UNIMPLEMENTED", "The model backend did not report its model.")
    return names[0]


def parameters(response: ModelInferResponse) -> dict[str, str]:
    """Values of contract.CONFIG_PARAMETERS. Raises BackendError."""
    length = Outputs(response).first(contract.N_CTX)
    return {} if length is None else {"context_length": str(length)}
