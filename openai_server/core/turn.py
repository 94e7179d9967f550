"""A turn: the input for a model and how to answer it, independent of the client's API and of the backend.

PURE. APIs translate their requests into a turn; a dialect translates it for its backend (backends/dialects). `Packed`
comes from protos.tensors: another process decodes a body with a million token ids and returns them in their wire
format.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from openai_server.core.messages import Message
from openai_server.core.tools import Tool, ToolUse
from protos import contract
from protos.tensors import Packed

Prompt = str | list[int] | Packed
"""Text, or token ids."""


class Sampling(Struct, frozen=True):
    """How tokens are chosen, and when a choice ends. None is the backend's default, which is `off` for most fields."""

    temperature: float | None = None
    """0 to 2; 0 is greedy."""
    top_p: float | None = None
    """0 to 1; 1: off."""
    top_k: int | None = None
    """Tokens; 0 and -1: off."""
    min_p: float | None = None
    """0 to 1, as a fraction of the likeliest token's probability; 0: off."""
    typical_p: float | None = None
    """0 to 1; 1: off."""
    top_n_sigma: float | None = None
    """Standard deviations below the greatest logit; 0 and -1: off."""
    presence_penalty: float | None = None
    """-2 to 2, subtracted from the logit of a token that already occurred."""
    frequency_penalty: float | None = None
    """-2 to 2, subtracted from a token's logit once per occurrence."""
    repetition_penalty: float | None = None
    """Factor from 0.01 to 10; 1: off."""
    repeat_last_n: int | None = None
    """Number of most recent tokens that the penalties consider; -1: all."""
    xtc_probability: float | None = None
    """0 to 1; 0: off."""
    xtc_threshold: float | None = None
    """0 to 1."""
    dry_multiplier: float | None = None
    """0 to 100; 0: off."""
    dry_base: float | None = None
    """1 to 100."""
    dry_allowed_length: int | None = None
    """Tokens that may be repeated without a penalty."""
    dry_penalty_last_n: int | None = None
    """Number of most recent tokens that DRY considers; -1: all."""
    dry_sequence_breakers: Sequence[str] | None = None
    """Texts that end a repetition."""
    mirostat: int | None = None
    """0: off, 1 and 2: the algorithm's versions."""
    mirostat_tau: float | None = None
    """0 to 100: the target, in bits."""
    mirostat_eta: float | None = None
    """0 to 1: the learning rate."""
    logit_bias: Mapping[str, float] | None = None
    """Token id, in decimal → -100 to 100, added to its logit."""
    stop: Sequence[str] | None = None
    """Texts that end a choice; at most contract.MAX_STOP_STRINGS."""
    stop_token_ids: Sequence[int] | None = None
    """Tokens that end a choice."""
    min_tokens: int | None = None
    """Minimum number of tokens before a choice may end."""
    ignore_eos: bool | None = None
    """Whether a choice continues after the model's end-of-text token."""
    skip_special_tokens: bool | None = None
    """Whether to omit control tokens from the text."""
    seed: int | None = None
    """Signed 64-bit integer."""
    priority: int | None = None
    """0 to 2³¹ - 1; smaller values run earlier."""


class Guide(Struct, frozen=True, kw_only=True):
    """The constraint on the generated text: a JSON Schema, a regular expression, texts, a grammar, or none."""

    field: str = ""
    """The client's field, for error messages; empty if there is no guide."""
    json_schema: dict[str, Any] | None = None
    name: str = ""
    """The client's name for the schema; empty: it has none."""
    description: str = ""
    """The client's description of the schema."""
    strict: bool = False
    """Whether a schema keyword that can't be enforced is an error. Otherwise it is ignored."""
    whitespace: str | None = None
    """Regular expression of the whitespace that JSON may have between its tokens; empty: none at all. None: the style
    that models are trained on, one space after commas and colons."""
    whitespace_field: str = ""
    """The client's field with `whitespace`."""
    regex: str | None = None
    choice: Sequence[str] | None = None
    """Texts of which the content must be one."""
    grammar: str | None = None
    """In GBNF, for the raw text of the model, including reasoning and tool calls."""
    lark: str | None = None
    """In llguidance's dialect of Lark, with the rule `start`, for the content."""

    def __bool__(self) -> bool:
        return bool(self.field)


class TemplateOptions(Struct, frozen=True):
    """Inputs of a chat template besides messages and tools."""

    add_generation_prompt: bool | None = None
    """Whether the prompt ends with the beginning of a new assistant message. None: yes, unless the last message is
    continued."""
    continue_final_message: bool | None = None
    """Whether the prompt ends inside the last message, which the model continues."""
    chat_template_kwargs: Mapping[str, Any] | None = None
    """Further variables, by name."""
    enable_thinking: bool | None = None
    """Turns reasoning on or off. None: the template's default."""
    reasoning_effort: str | None = None
    """Keyword such as `low`; `none` turns reasoning off. None: the template's default."""


NO_GUIDE = Guide()
DEFAULT_TEMPLATE = TemplateOptions()


class Turn(Struct, kw_only=True):
    """The generation for one request. Has either `prompts` or `messages`."""

    model: str | None = None
    """Name of the model; None: the default model."""
    prompts: Sequence[Prompt] = ()
    """Prompts, each with its own answer."""
    messages: Sequence[Message] = ()
    in_items: bool = False
    """Whether the client sent the conversation as items of the Responses API."""
    drops_oldest: bool = False
    """Whether to drop the oldest messages if the prompt doesn't fit into the context."""
    file_bytes: int = 0
    """Bytes of the texts of files in the messages that the request's body doesn't contain."""
    tools: Sequence[Tool] = ()
    """All tools in the request, whether or not the answer may call them."""
    tool_use: ToolUse | None = None
    """None: the answer can't call tools."""
    template: TemplateOptions = DEFAULT_TEMPLATE
    effort_is_hint: bool = False
    """Whether `template.reasoning_effort`, unless it is `none`, has no effect with a template that has no such
    variable or switch, or that refuses the value. Otherwise it is an error there."""
    thinking_is_hint: bool = False
    """Whether `template.enable_thinking` has no effect with a template that has no such switch. Otherwise it is an
    error there, unless the model reasons with each answer, and the option turns that on or the backend can end it."""
    sampling: Sampling
    guide: Guide = NO_GUIDE
    token_limit: int | None = None
    """Maximum tokens of each choice; None: until the context is full."""
    has_default_limit: bool = False
    """Whether `token_limit` is the API's default rather than set by the client."""
    reasoning_limit: int | None = None
    """Maximum tokens of reasoning in each choice; the backend ends longer reasoning. None: no limit. A model that
    doesn't reason is within every limit."""
    n_to_send: int | None = None
    """Choices to generate for each prompt; None: one, the backend's default."""
    n_returned: int = 1
    """Choices in the response for each prompt: the likeliest of those generated."""
    top_logprobs: int | None = None
    """Number of likeliest tokens to list at each position; None: no log probabilities."""
    timings: bool | None = None
    """Whether the answer has its times. Only for one prompt."""
    progress: bool | None = None
    """Whether a stream has the progress of the prompt. Only for one prompt."""
    echo: bool | None = None
    """Whether the answer begins with the prompt."""
    suffix: str | None = None
    """Text that follows the answer."""
    extras: Mapping[str, Any] = {}
    """Fields of the request that only a backend which takes chats may follow, such as `user`, by their names in a
    chat."""
    reports_stop: bool = False
    """Whether the events include the stop string that ended a choice, if the backend can report it."""
    names: Mapping[str, str]
    """Field of the turn, its sampling or template options → the client's field, where the names differ. `prompt` stands
    for the field with the prompt, `parameters` for the parameters of function number `{}`, `custom_format` for the
    definition of custom tool number `{}`."""
    message_fields: Sequence[str] = ()
    """Path of each message in the request; empty: its position in the field for `messages`."""
    tool_fields: Sequence[str] = ()
    """Path of each tool in the request, for the `{}` of `names`; empty: its position in `tools`."""

    @property
    def n_generated(self) -> int:
        """Choices to generate for each prompt."""
        return self.n_to_send or 1

    @property
    def chooses_best(self) -> bool:
        """Whether more choices are generated than returned."""
        return self.n_generated > self.n_returned

    @property
    def allowed_tools(self) -> frozenset[str] | None:
        """Names of the tools that the answer may call, if the turn has others. None: calls are not restricted."""
        allowed = self.tool_use.tools if self.tool_use else ()
        return frozenset(tool.name for tool in allowed) if len(allowed) < len(self.tools) else None

    def name(self, field: str) -> str:
        """The client's name for a field of the turn, for error messages."""
        return self.names.get(field, field)

    def tool_field(self, index: int) -> str:
        """The client's field with the schema or the definition of a tool, for error messages."""
        field = self.tool_fields[index] if self.tool_fields else index
        return self.name("parameters" if self.tools[index].custom is None else "custom_format").format(field)

    def with_messages_at(self, positions: Sequence[int]) -> "Turn":
        """A copy with only these messages."""
        messages = [self.messages[i] for i in positions]
        fields = [self.message_fields[i] for i in positions] if self.message_fields else ()
        return replace(self, messages=messages, message_fields=fields)

    def with_stop(self, text: str) -> "Turn":
        """A copy with `text` as an additional stop string; the same turn if it already has the maximum number."""
        stops = self.sampling.stop or ()
        if len(stops) >= contract.MAX_STOP_STRINGS:
            return self
        return replace(self, sampling=replace(self.sampling, stop=[*stops, text]))


class PromptField(NamedTuple):
    """A request field with text or token ids for the model, whose length may be limited."""

    name: str
    prompts: Sequence[Prompt]
    is_list: bool = False
    """Whether the field is a list of prompts; an error then names the item."""
