"""The interface of a dialect: how one kind of backend is called, and how its answers are read.

PURE. A dialect never sends anything: the pool and its channels do. A field that the backend can't express raises an
UnsupportedParameter that names the client's field; it is never left out silently.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from msgspec import Struct

from openai_server.core.answer import Answer
from openai_server.core.rows import Row
from openai_server.core.timings import Progress, Timings
from openai_server.core.turn import Prompt, Turn
from openai_server.core.usage import PromptUsage, Usage
from protos import tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

ServerInputs = Mapping[TensorSpec, tensors.Elements]
"""Inputs of the contract that the server sets. They replace those that the client set."""

DEFAULT_TEMPLATE = "default_chat_template"
"""Parameter of a model, set by this server: the chat template of a model that reports none. Absent: it can't chat."""
CHATML_BY_DEFAULT = "chatml"
"""The only value of DEFAULT_TEMPLATE, for models of servers with the contract's extensions."""


class Rpc(Enum):
    """The call that generates."""

    EITHER = "ModelInfer, or ModelStreamInfer for a stream"
    UNARY = "ModelInfer"
    STREAM = "ModelStreamInfer"
    BARE_STREAM = "ModelStreamInfer with responses of the type ModelInferResponse"
    """As in MLServer. Other backends send ModelStreamInferResponse."""


class Target(Struct, frozen=True):
    """The model that a call is for, the names of its inputs, and the call's id."""

    model: str
    input_names: Container[str]
    id: str
    version: str = ""
    """Empty: the version that the backend chooses."""


class AnswerReader(Protocol):
    """Reads the responses to one call, one after the other."""

    def read(self, response: ModelInferResponse) -> list[Row]:
        """The rows in the response. Raises BackendError."""

    def end(self) -> list[Row]:
        """The last rows. Must be called when the responses have ended. Raises BackendError if the answer is
        incomplete."""

    @property
    def prompt_usage(self) -> PromptUsage | None:
        """None if the backend has not reported it yet."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is expected, so that the call can end."""

    @property
    def timings(self) -> Timings | None:
        """Times up to the last row. None: not requested, or not reported."""

    def take_progress(self) -> Sequence[Progress]:
        """Progress of the prompt since the last call."""

    @property
    def usage(self) -> Usage | None:
        """None if the backend doesn't count, or if the answer is not complete."""


@dataclass(slots=True, eq=False)
class Call:
    """The generation for one prompt."""

    request: ModelInferRequest
    n: int
    """Number of choices."""
    rpc: Rpc
    new_reader: Callable[[], AnswerReader]
    """Creates the reader for one attempt."""
    error_of: "Callable[[ModelStreamInferResponse], Exception]"
    """The BackendError for a response of a stream with an error."""
    prompt_input: str = ""
    """Name of the tensor with the prompt or the messages; empty: no tensor holds it alone."""
    read_whole: Callable[[ModelInferResponse, int], Answer] | None = None
    """Reads a whole answer with this number of choices. None: whole answers are collected by a reader too."""
    fallback: "Callable[[], Call] | None" = None
    """Builds the call to make if the backend doesn't implement that of `rpc`."""
    model: str = ""
    """Name of the model in the catalog, which the request may address by another one."""
    metadata: tuple[tuple[str, str], ...] = ()
    """gRPC metadata of the call, besides that of each request."""


class Explanation(Struct, frozen=True, kw_only=True):
    """How a model is called, in words."""

    rpc: str
    inputs: Mapping[str, str]
    """Input of the contract → its place."""
    refused: Sequence[str] | None = None
    """Names of the client's fields that the model refuses. None: those of the contract's inputs without a place."""
    text: str
    end: str
    finish_reason: str
    counts: str
    logprobs: str


class Dialect(Protocol):
    """One model in one kind of backend."""

    @property
    def name(self) -> str:
        """Its name for `--dialect`."""

    @property
    def input_names(self) -> Container[str]:
        """Inputs of the contract that the model takes, in whatever form."""

    @property
    def parameters(self) -> Mapping[str, str]:
        """Values of contract.CONFIG_PARAMETERS that hold unless the backend reports others."""

    @property
    def takes_messages(self) -> bool:
        """Whether a chat is sent as messages instead of a rendered prompt."""

    @property
    def answers_in_events(self) -> bool:
        """Whether the text of an answer's rows is events of the contract, a JSON object in each line, instead of the
        model's text."""

    @property
    def collects(self) -> bool:
        """Whether whole answers are collected by a reader."""

    def calls(
        self, turn: Turn, prompts: Sequence[Prompt], target: Target, server_inputs: ServerInputs, *, streams: bool
    ) -> Iterator[Call]:
        """Yields a call for each prompt; each is built when it is requested. `streams`: whether the client gets a
        stream. A turn with messages for a dialect that takes messages has one call. Raises UnsupportedParameter."""

    def fields(self, turn: Turn) -> Mapping[str, str]:
        """Name of a backend's input, or of a part of a guide → the client's field that it came from, for errors."""

    def explain(self) -> "Explanation":
        """The description of this dialect for a person."""


@dataclass(frozen=True, slots=True)
class Recognized:
    """A dialect that fits a model."""

    dialect: Dialect
    reason: str
    """Why it fits, as the end of a sentence."""


class UnusableModel(ValueError):
    """The chosen dialect doesn't fit the model. The message is the reason, as the end of a sentence."""
