"""Common parts of the scripted models of Triton's Python backend."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from tests.foreign import engine
from tests.foreign.servers import triton_tensors

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def complete(config: Any, inputs: str, outputs: str, *, decoupled: bool) -> Any:
    """Adds tensors to a model's configuration, as backends do that know their tensors."""
    for name, datatype, dims, optional in triton_tensors.rows(inputs):
        tensor = {"name": name, "data_type": f"TYPE_{datatype}", "dims": [int(dim) for dim in dims.split(",")]}
        config.add_input({**tensor, "optional": True} if optional else tensor)
    for name, datatype, dims, _ in triton_tensors.rows(outputs):
        config.add_output(
            {"name": name, "data_type": f"TYPE_{datatype}", "dims": [int(dim) for dim in dims.split(",")]}
        )
    config.set_model_transaction_policy({"decoupled": decoupled})
    config.set_max_batch_size(0)
    return config


def texts(name: str, *values: str | bytes) -> Any:
    data = [value.encode() if isinstance(value, str) else value for value in values]
    return pb_utils.Tensor(name, np.array(data, dtype=np.object_))


class Model:
    """A model that answers each request in a thread of its own. A subclass implements `answer`."""

    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.config = json.loads(args["model_config"])
        self.decoupled = pb_utils.using_decoupled_model_transaction_policy(self.config)
        self.batched = self.config["max_batch_size"] > 0

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            threading.Thread(target=self._run, args=(Request(request, self),), daemon=True).start()

    def _run(self, request: Request) -> None:
        try:
            self.answer(request)
        except Exception as error:
            request.fail(self.error_text(error))

    def answer(self, request: Request) -> None:
        raise NotImplementedError

    def error_text(self, error: Exception) -> str:
        return str(error)


class Request:
    """A request, and the sender of its responses."""

    def __init__(self, request: Any, model: Model) -> None:
        self._request = request
        self._sender = request.get_response_sender()
        self._model = model

    def all(self, name: str) -> list[Any] | None:
        """Returns the elements of an input, texts decoded; None if it is absent."""
        tensor = pb_utils.get_input_tensor_by_name(self._request, name)
        if tensor is None:
            return None
        elements = tensor.as_numpy().reshape(-1).tolist()
        return [element.decode() if isinstance(element, bytes) else element for element in elements]

    def first(self, name: str, default: Any = None) -> Any:
        elements = self.all(name)
        return elements[0] if elements else default

    def all_inputs(self) -> dict[str, Any]:
        """Returns all inputs, for the log."""
        names = [tensor["name"] for tensor in self._model.config["input"]]
        return {name: elements for name in names if (elements := self.all(name)) is not None}

    @property
    def parameters(self) -> str:
        """The request's own parameters, as JSON."""
        return str(self._request.parameters() or "{}")

    def note(self, prompt: str) -> None:
        engine.note(
            "request",
            model=self._model.name,
            version=self._model.version,
            prompt=prompt,
            inputs=self.all_inputs(),
            parameters=self.parameters,
        )

    def send(self, *tensors: Any, final: bool = False) -> None:
        response = pb_utils.InferenceResponse(output_tensors=list(tensors))
        self._sender.send(response, flags=FINAL if final else 0)

    def end(self) -> None:
        """Ends the stream with a response that has no outputs, which clients see only if they request it."""
        self._sender.send(flags=FINAL)

    def fail(self, message: str, *tensors: Any, final: bool = True) -> None:
        response = pb_utils.InferenceResponse(output_tensors=list(tensors), error=pb_utils.TritonError(message))
        self._sender.send(response, flags=FINAL if final else 0)

    def until_cancelled(self, deltas: Iterator[engine.Delta]) -> Iterator[engine.Delta]:
        """Yields the deltas until the client has left."""
        n_tokens = 0
        for delta in deltas:
            if self._sender.is_cancelled():
                engine.note("cancelled", after=n_tokens)
                return
            n_tokens += delta.n_tokens
            yield delta
        engine.note("ended", tokens=n_tokens)
