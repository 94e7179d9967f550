"""The form of a mapping, which describes an HTTP API. PURE.

docs/foreign_apis.md describes each key for the authors of mappings.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from anyserve_worker.pipelines.upstream.failures import ErrorKind

Name = Annotated[str, Meta(min_length=1)]
Path = Annotated[str, Meta(min_length=1)]
Template = dict[str, Any]
Condition = dict[Path, bool | int | float | str]
"""Paths and the values that must stand there."""


class Place(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values in an object of the answer."""

    path: Path
    where: Condition = {}
    """The place is read in objects that meet the condition."""


Places = Path | Place | list[Path | Place]
Sum = Path | list[Path]
"""A count, or several whose sum counts. The last value of each in an answer counts."""


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    env: str = ""
    """Environment variable with the key, unless the settings name another."""
    header: Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")] = "Authorization"
    prefix: Annotated[str, Meta(pattern=r"^[ -~]*$")] = "Bearer "
    required: bool = False


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Path
    """Begins with `/`; `{model}` stands for the API's name of the model."""
    stream_path: str = ""
    """Path for streams; empty: the same."""
    headers: dict[str, str] = {}
    body: Template
    when_streaming: Template = {}
    """Additional parts of the body for streams."""
    when_whole: Template = {}


class Messages(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a chat's messages are written. Roles that `roles` lacks are refused."""

    roles: dict[Literal["system", "user", "assistant", "tool"], Name] = field(
        default_factory=lambda: {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
    )
    system: Literal["message", "apart"] = "message"
    """`apart`: system messages aren't part of `messages`, but the value `system`."""
    merge: bool = False
    """Whether neighbours with the same role become one message."""
    message: Template = field(default_factory=lambda: {"role": "{role}", "content": "{content}"})
    """Values: `role`, `content`, `images` (list of base64), `calls`."""
    content: Literal["text", "parts"] = "text"
    """Whether `content` is a text or a list of parts."""
    text: Template = field(default_factory=lambda: {"type": "text", "text": "{text}"})
    """A part with text. Value: `text`."""
    image: Template | None = None
    """A part with an image. Values: `media_type`, `data` (base64), `url`. None: images are refused."""
    image_url: Template | None = None
    """A part with the URL of an image. Value: `url`. None: such images are refused."""
    call: Template | None = None
    """A tool call. Values: `id`, `name`, `arguments` (object), `arguments_text`. None: calls are refused."""
    calls: Literal["field", "parts"] = "field"
    """Whether calls are the value `calls`, or parts of `content`."""
    result: Template | None = None
    """A tool's result. Values: `text`, `id`, `name`. None: results are refused."""
    results: Literal["messages", "parts"] = "messages"
    """Whether results are messages, or parts of a message with the role `tool`."""


class Prompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a chat becomes the value `prompt`."""

    format: Literal["chatml", "plain"] = "chatml"
    template: str = ""
    """Jinja source of a chat template, instead of `format`."""
    stop: list[str] = []
    """Texts that are added to the value `stop`."""


class Calls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tool calls, or pieces of them. Paths begin at the call, or, with `/` in front, at the whole object."""

    path: Path
    where: Condition = {}
    key: str = ""
    """Path of the call's number; empty: each piece with a name is a call."""
    id: str = ""
    name: str = ""
    arguments: str = ""


class Counts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prompt: Sum = []
    completion: Sum = []
    cached: Sum = []
    reasoning: Sum = []


class FinishReason(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Places = []
    map: dict[str, Literal["stop", "length", "tool_calls", "content_filter"]] = {}
    """Reasons of the API. All others are errors."""
    ignore: list[str] = []
    """Values that mean that the answer goes on."""
    absent: Literal["", "stop"] = ""
    """Reason of a complete answer that has none; empty: such an answer is an error."""


class EndOfStream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of a stream. A finish reason is enough as well."""

    mark: str = ""
    """Text instead of JSON, such as `[DONE]`."""
    where: Condition = {}
    """The object that meets the condition is the last."""
    eof: bool = False
    """Whether the end of the connection is the end of the answer."""


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    framing: Literal["json", "sse", "ndjson", "json-array"] = "json"
    events: list[Name] = []
    """Names of the events that are read; empty: all. Errors are always read."""
    event_field: str = ""
    """Path of an event's name; empty: that of the server-sent event."""
    text: Places = []
    text_is: Literal["delta", "cumulative"] = "delta"
    has_prompt: bool = False
    """Whether the text begins with the prompt."""
    reasoning: Places = []
    calls: Calls | list[Calls] = []
    usage: Counts = Counts()
    finish: FinishReason = FinishReason()
    end: EndOfStream = EndOfStream()


class Errors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    message: Places = field(default_factory=lambda: list[Path | Place](("error.message", "error")))
    """An object of an answer that has one of these is an error."""
    code: Places = []
    field: str = ""
    """Path of the request's field that is wrong."""
    kinds: dict[str, ErrorKind] = {}
    """Kind of the error by code or HTTP status, instead of the usual one for the status."""


class Mapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    description: str = ""
    base_url: str = ""
    check_path: str = "/"
    """Path of a GET request that succeeds while the API works."""
    key: Key = Key()
    request: Request
    messages: Messages = Messages()
    prompt: Prompt = Prompt()
    tool: Template | None = None
    """A tool. Values: `name`, `description`, `parameters`; None: as in OpenAI's chat."""
    answer: Answer
    stream: Answer
    """The form of a stream. In files, it is merged into `answer`, and has only the differences."""
    errors: Errors = Errors()
