"""What a dialect is: how one kind of backend takes a turn, and how its answers are read.

PURE. A dialect never sends anything: the pool and its channels do. What a backend of its kind can't express is an
UnsupportedParameter that names the client's field, never left out silently.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from openai_server.core.answer import Answer
from openai_server.core.rows import Row
from openai_server.core.turn import Prompt, Turn
from openai_server.core.usage import Usage
from protos import tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

ServerInputs = Mapping[TensorSpec, tensors.Elements]
"""Inputs of our contract that no client sets, and those that go before what the client set."""


class Target(Struct, frozen=True):
    """The model that a call is for, the names of its inputs, and the call's id."""

    model: str
    input_names: Container[str]
    id: str


class AnswerReader(Protocol):
    """Reads the responses to one streamed call, one after the other."""

    def read(self, response: ModelInferResponse) -> list[Row]:
        """The rows of the choices that moved. Raises BackendError."""

    def end(self) -> None:
        """To be called when the stream has ended. Raises BackendError if the answer is not whole."""

    @property
    def usage(self) -> Usage | None:
        """None: the backend doesn't count, or the stream has not ended."""


class Dialect(Protocol):
    def calls(
        self, turn: Turn, prompts: Sequence[Prompt], target: Target, server_inputs: ServerInputs
    ) -> Iterator[ModelInferRequest]:
        """A call for each prompt, made when it is taken. Raises UnsupportedParameter."""

    def fields(self, turn: Turn) -> Mapping[str, str]:
        """The backend's name of an input, or part of a guide → the client's field that it came from, for errors."""

    def answer(self, response: ModelInferResponse, n: int) -> Answer:
        """A whole answer, which has to hold `n` choices. Raises BackendError."""

    def reader(self, n: int) -> AnswerReader:
        """Reads a streamed answer with `n` choices."""
