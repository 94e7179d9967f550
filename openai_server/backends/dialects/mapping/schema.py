"""The form of a mapping file: which tensors of a backend carry the inputs and outputs of the contract. PURE.

docs/mapping.md describes each key for the authors of such files.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Constant = bool | int | float | str
Name = Annotated[str, Meta(min_length=1)]
Names = Name | Annotated[list[Name], Meta(min_length=1)]
"""A tensor's name, or several of which the first that the model has is used."""
Datatype = Literal[
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32", "FP64", "BYTES"
]


class TypedConstant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A constant with another datatype or rank than the model's metadata has."""

    value: Constant | list[Constant]
    type: Datatype | None = None
    rank: Annotated[int, Meta(ge=0, le=4)] | None = None
    parameters: dict[str, Constant] = {}


AnyConstant = Constant | TypedConstant


class Place(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the value of one input of the contract goes: to a tensor, a key of the JSON tensor, or a parameter of the
    request."""

    tensor: Names | None = None
    key: Name | None = None
    """Key of the JSON tensor, or a path with dots."""
    parameter: Name | None = None
    type: Datatype | None = None
    """Datatype; absent: as in the model's metadata, or as in the contract."""
    rank: Annotated[int, Meta(ge=0, le=4)] | None = None
    """Number of dimensions; absent: as in the model's metadata, or 1."""
    parameters: dict[str, Constant] = {}
    """Parameters of the input tensor."""
    inside: Name | None = None
    """With `as = "json"`: the value is wrapped in an object with this key."""
    factor: float | None = None
    """The value is multiplied by this."""
    join: str | None = None
    """The texts of a list are joined by this to a single one."""
    as_: Literal["json"] | None = field(default=None, name="as")
    """`json`: the value is encoded as JSON text."""
    default: Constant | list[str] | None = None
    """Value that is sent if the client sets none."""
    min: float | None = None
    """Least value that the backend accepts."""
    max: float | None = None
    """Greatest value that the backend accepts."""
    with_: dict[str, AnyConstant] = field(default_factory=dict, name="with")
    """Constants that are sent together with the value: tensor → value."""
    zero: float | None = None
    """The value that is sent instead of 0."""
    at_zero: dict[str, AnyConstant] | None = None
    """Constants that are sent instead of the value 0."""


class Json(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor with a JSON object, which holds the inputs with a `key`."""

    tensor: Names
    always: dict[str, Any] = {}
    """Constant keys."""
    type: Datatype | None = None
    rank: Annotated[int, Meta(ge=0, le=4)] | None = None


class Recognize(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions on a model. All keys that are present must hold."""

    server: list[str] = []
    """Names of the server, one of which must be that in ServerMetadata."""
    backend: list[str] = []
    """Names of which one must be the `backend` or `platform` of the model."""
    inputs: list[Names] = []
    """Inputs that the model must have; of a list of names, one."""
    outputs: list[Names] = []
    has_required: bool = False
    """Whether each input that the model requires must be one that every request has."""
    any_of: "list[Recognize]" = []
    """Alternatives of which one must fit."""


class Output(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tensor: Names | None = None
    json: str | None = None
    """Path of the value in the tensor's JSON text, with dots; list positions are numbers."""


class Setting(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """True if a parameter in the model's ModelConfig has this value."""

    parameter: Name
    value: str


class Text(Output, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cumulative: bool | Setting = False
    """Whether each response of a stream has the whole text so far."""
    has_prompt: bool = False
    """Whether the text begins with the prompt."""
    keeps_stop: bool = False
    """Whether the text ends with the stop string that ended it."""


class Reason(Output, frozen=True, kw_only=True, forbid_unknown_fields=True):
    none: list[str] = []
    """Words for a choice that is not finished."""
    map: dict[str, str] = {}
    """The backend's word → `stop`, `length`, `content_filter` or, for an end without a known reason, an empty text."""


class Count(Output, frozen=True, kw_only=True, forbid_unknown_fields=True):
    delta: bool = False
    """Whether each response has the tokens of that response instead of the total."""


class Logprobs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tensor: Name
    form: Literal["vllm"]
    """The JSON text that the tensor holds for each choice."""


class EndMark(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stream marks its end."""

    tensor: Name | None = None
    """A BOOL tensor that is true at the end."""
    text: Name | None = None
    """A text at the end of a choice that is not part of the answer."""


class Outputs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text: Name | Text
    index: Name | None = None
    """Tensor with the choice that a response belongs to. Absent: each choice has its element in `text`."""
    end: Literal["triton_final_response", "finish_reason", "rpc"] | EndMark | None = None
    """Absent: `triton_final_response` in Triton, otherwise `rpc`, the end of the call."""
    finish_reason: Name | Reason | Literal["counts"] | None = None
    """`counts`: `length` if the tokens reach the limit, otherwise `stop`. Absent: unknown."""
    prompt_tokens: Name | Count | None = None
    completion_tokens: Name | Count | None = None
    cached_tokens: Name | Count | None = None
    logprobs: Logprobs | None = None
    error: Name | Output | None = None
    """A text that is not empty if the request has failed."""


class Messages(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tensors for a chat that is not rendered to a prompt."""

    tensor: Names
    as_: Literal["json", "list", "columns"] = field(default="json", name="as")
    """`json`: one text with a JSON array; `list`: one JSON object for each element; `columns`: the text of each
    message, whose role is in `role`."""
    role: Names | None = None
    """With `columns`: tensor for the role of each message."""
    kind: Names | None = None
    """With `columns`: tensor for the type of each message, which is always `text`."""
    type: Datatype | None = None
    rank: Annotated[int, Meta(ge=0, le=4)] | None = None
    system: Names | None = None
    """Tensor for the text of the system messages, which the messages then don't have."""
    last_user: Names | None = None
    """Tensor for the text of the last message, which the messages then don't have."""


class Errors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parts of error messages in streams, which have no status of their own."""

    not_found: list[str] = []
    invalid: list[str] = []
    context_length: list[str] = []
    unavailable: list[str] = []


class Address(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names that requests have instead of the model's."""

    whole: str | None = None
    """Model name of requests by ModelInfer."""
    stream: str | None = None
    """Model name of requests by ModelStreamInfer."""
    version: str | None = None


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values that the backend doesn't report."""

    chat_template: str | None = None
    """File with a Jinja template; a relative path starts at the folder of the mapping file."""
    context_length: Annotated[int, Meta(ge=1)] | None = None
    """Tokens."""


class MappingFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping file."""

    name: str = ""
    """Name for `--dialect`; absent: the name of the file."""
    description: str = ""
    """The kind of backend, for a person."""
    models: list[str] = []
    """Patterns of model names, with *, ? and […], for which the file is used."""
    recognize: Recognize | None = None
    rpc: Literal["unary", "stream", "both", "bare_stream", "both_bare"] | None = None
    """Absent: `stream` for a decoupled model, `unary` for a server without streams, otherwise `both`."""
    lists_inputs: bool = True
    """Whether the model's metadata lists all its inputs and outputs, if it lists any."""
    address: Address = Address()
    model: Model = Model()
    inputs: dict[str, Names | Place] = {}
    messages: Name | Messages | None = None
    json: Json | None = None
    always: dict[str, AnyConstant] = {}
    """Constant tensors of every request."""
    when_streaming: dict[str, AnyConstant] = {}
    """Constant tensors of requests by ModelStreamInfer."""
    when_whole: dict[str, AnyConstant] = {}
    """Constant tensors of requests by ModelInfer."""
    request_parameters: dict[str, Constant] = {}
    """Constant parameters of every request."""
    outputs: Outputs
    errors: Errors = Errors()
