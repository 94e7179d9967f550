"""The interface of a dialect, which encodes turns for one kind of backend and decodes its answers.

PURE. A dialect never sends anything: the pool and its channels do. A field that the backend can't express raises an
UnsupportedParameter that names the client's field; it is never left out silently.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from openai_server.core.answer import Answer
from openai_server.core.rows import Row
from openai_server.core.timings import Progress, Timings
from openai_server.core.turn import Prompt, Turn
from openai_server.core.usage import PromptUsage, Usage
from protos import tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

ServerInputs = Mapping[TensorSpec, tensors.Elements]
"""Inputs of the contract that the server sets. They replace those that the client set."""

DEFAULT_TEMPLATE = "default_chat_template"
"""Parameter of a model, set by this server: the chat template of a model that reports none. Absent: it can't chat."""
CHATML_BY_DEFAULT = "chatml"
"""The only value of DEFAULT_TEMPLATE, for models of servers with the contract's extensions."""


class Target(Struct, frozen=True):
    """The model that a call is for, the names of its inputs, and the call's id."""

    model: str
    input_names: Container[str]
    id: str


class AnswerReader(Protocol):
    """Reads the responses to one streamed call, one after the other."""

    def read(self, response: ModelInferResponse) -> list[Row]:
        """The rows in the response. Raises BackendError."""

    def end(self) -> None:
        """Must be called when the stream has ended. Raises BackendError if the answer is incomplete."""

    @property
    def prompt_usage(self) -> PromptUsage | None:
        """None if the backend has not reported it yet."""

    @property
    def timings(self) -> Timings | None:
        """Times up to the last row. None: not requested, or not reported."""

    def take_progress(self) -> Sequence[Progress]:
        """Progress of the prompt since the last call."""

    @property
    def usage(self) -> Usage | None:
        """None if the backend doesn't count, or if the stream has not ended."""


class Dialect(Protocol):
    def calls(
        self, turn: Turn, prompts: Sequence[Prompt], target: Target, server_inputs: ServerInputs
    ) -> Iterator[ModelInferRequest]:
        """Yields a call for each prompt; each is built when it is requested. Raises UnsupportedParameter."""

    def fields(self, turn: Turn) -> Mapping[str, str]:
        """Name of a backend's input, or of a part of a guide → the client's field that it came from, for errors."""

    def answer(self, response: ModelInferResponse, n: int) -> Answer:
        """Reads a whole answer. Raises BackendError, also if it doesn't have `n` choices."""

    def reader(self, n: int) -> AnswerReader:
        """A reader for a streamed answer with `n` choices."""
