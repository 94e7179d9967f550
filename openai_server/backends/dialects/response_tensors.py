"""The tensors of a response by name, in both forms of the protocol. PURE."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from openai_server.core.errors import BackendError
from protos import tensors
from protos.grpc_predict_v2_pb2 import ModelInferResponse


class ResponseTensors:
    """A tensor is decoded when it is requested. Shapes are ignored: a tensor is its elements, of whatever rank.

    Raises BackendError if the response has another number of raw contents than of tensors.
    """

    def __init__(self, response: ModelInferResponse) -> None:
        outputs, raw = response.outputs, response.raw_output_contents
        if raw and len(raw) != len(outputs):
            raise malformed(f"{len(raw)} raw contents for {len(outputs)} tensors")
        self._tensors = {
            output.name: (output, part) for output, part in zip(outputs, raw or repeat(None), strict=False)
        }

    @staticmethod
    def _decoded(output: Any, raw: bytes | None) -> Sequence[Any]:
        """The elements of an entry of `_tensors`. Raises BackendError."""
        try:
            return tensors.output_elements(output, raw)
        except (tensors.TensorError, KeyError) as error:  # KeyError: no datatype of the protocol
            raise malformed(str(error)) from error


def malformed(problem: str) -> BackendError:
    return bad_answer(f"sent a malformed answer: {problem}")


def bad_answer(problem: str) -> BackendError:
    """`problem` completes a sentence that begins with the backend."""
    return BackendError("UNKNOWN", f"The model backend {problem}.")
