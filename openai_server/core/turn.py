"""A turn: what a model has to answer, and how. In no API's words, and in no backend's.

PURE. APIs translate their requests into a turn; a dialect translates it for its backend (backends/dialects). `Packed`
comes from protos.tensors: a body with a million token ids is decoded in another process, which hands them on in the
form of the wire.
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
    """How tokens are chosen, and where that ends. None is the backend's default, which for most fields is `off`."""

    temperature: float | None = None
    """0 to 2; 0 is greedy."""
    top_p: float | None = None
    """0 to 1; 1: off."""
    top_k: int | None = None
    """Tokens; 0 and -1: off."""
    min_p: float | None = None
    """0 to 1, as a part of the likeliest token's probability; 0: off."""
    typical_p: float | None = None
    """0 to 1; 1: off."""
    top_n_sigma: float | None = None
    """Standard deviations below the greatest logit; 0 and -1: off."""
    presence_penalty: float | None = None
    """-2 to 2, subtracted from the logit of a token that is there already."""
    frequency_penalty: float | None = None
    """-2 to 2, subtracted once for each time that the token is there."""
    repetition_penalty: float | None = None
    """0.01 to 10, a factor; 1: off."""
    repeat_last_n: int | None = None
    """Tokens that the penalties look back at; -1: all."""
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
    """Tokens that DRY looks back at; -1: all."""
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
    """Tokens before a choice may end."""
    ignore_eos: bool | None = None
    """The model's own end of text doesn't end a choice."""
    skip_special_tokens: bool | None = None
    """Control tokens are left out of the text."""
    seed: int | None = None
    """A signed integer of 64 bits."""
    priority: int | None = None
    """0 to 2³¹ - 1; the smaller the sooner."""


class Guide(Struct, frozen=True, kw_only=True):
    """What the text has to match: one of four, or nothing."""

    field: str = ""
    """The client's field, to name in errors; empty if there is no guide."""
    json_schema: dict[str, Any] | None = None
    strict: bool = False
    """A keyword of the schema that can't be enforced is an error. Otherwise it is left out."""
    regex: str | None = None
    grammar: str | None = None
    """In GBNF. It describes the text as the model writes it, thoughts and calls included."""

    def __bool__(self) -> bool:
        return bool(self.field)


class TemplateOptions(Struct, frozen=True):
    """What a chat template gets besides messages and tools."""

    add_generation_prompt: bool | None = None
    """The prompt ends with the beginning of the assistant's next message. None: unless the last one is continued."""
    continue_final_message: bool | None = None
    """The prompt ends inside the last message."""
    chat_template_kwargs: Mapping[str, Any] | None = None
    """Further variables, by name."""
    enable_thinking: bool | None = None
    """Turns reasoning on or off. None: the template's default."""
    reasoning_effort: str | None = None
    """A word such as `low`; `none` turns reasoning off. None: the template's default."""


NO_GUIDE = Guide()
DEFAULT_TEMPLATE = TemplateOptions()


class Turn(Struct, kw_only=True):
    """What one request wants generated. Either `prompts` or `messages` are given."""

    model: str | None = None
    """None: the default."""
    prompts: Sequence[Prompt] = ()
    """Each gets an answer of its own."""
    messages: Sequence[Message] = ()
    tools: Sequence[Tool] = ()
    """All that the request lists, whether or not they may be called."""
    tool_use: ToolUse | None = None
    """None: the answer calls nothing."""
    template: TemplateOptions = DEFAULT_TEMPLATE
    sampling: Sampling
    guide: Guide = NO_GUIDE
    token_limit: int | None = None
    """Tokens of each choice; None: until the context is full."""
    has_default_limit: bool = False
    """The limit is the API's default: no client set it."""
    n_to_send: int | None = None
    """Choices to generate for each prompt; None: one, the backend's default."""
    n_returned: int = 1
    """Choices that the answer has for each prompt: the likeliest of those that are generated."""
    top_logprobs: int | None = None
    """Likeliest tokens to list with each token's log probability; None: no log probabilities."""
    echo: bool | None = None
    """The answer begins with the prompt."""
    suffix: str | None = None
    """Text that follows the answer."""
    names: Mapping[str, str]
    """Field of the turn (or of its sampling or template options) → the client's field, where that has another name.
    `prompt` stands for whatever the prompt is made of, `parameters` for those of the function number `{}`."""

    @property
    def n_generated(self) -> int:
        """Choices that are generated for each prompt."""
        return self.n_to_send or 1

    @property
    def chooses_best(self) -> bool:
        """Whether more choices are generated than returned."""
        return self.n_generated > self.n_returned

    def name(self, field: str) -> str:
        """The client's field behind a field of the turn, to name in errors."""
        return self.names.get(field, field)

    def with_stop(self, text: str) -> "Turn":
        """The turn with one more stop string, unless it has as many as there may be."""
        stops = self.sampling.stop or ()
        if len(stops) >= contract.MAX_STOP_STRINGS:
            return self
        return replace(self, sampling=replace(self.sampling, stop=[*stops, text]))


class PromptField(NamedTuple):
    """A field of a request with text or token ids for the model, whose length may be limited."""

    name: str
    prompts: Sequence[Prompt]
    is_list: bool = False
    """The field is a list of prompts, so that an error names the item."""
