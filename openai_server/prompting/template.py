"""Messages to a prompt, with the model's own chat template.

PURE: clocks are passed in. Templates are written for Hugging Face's transformers, so its environment is followed
(transformers, `utils/chat_template_utils.py`): `messages`, `tools`, `documents`, `add_generation_prompt`, the special
tokens, `tojson`, `raise_exception`, `strftime_now`, loop controls and the generation tag. `test_corpus.py` compares the
two over the templates of many models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateRuntimeError

from anyserve_common.text import shortened
from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import Message
from openai_server.prompting import continuation
from openai_server.prompting.capabilities import BOUNDS, Capabilities, capabilities
from openai_server.prompting.limits import CURRENT, Budget, LimitExceeded
from openai_server.prompting.messages import Form, Seen, Tools, as_seen, tools_as_seen
from openai_server.prompting.sandbox import SandboxedTemplates
from openai_server.prompting.source import CompiledSource, check_length, compile_source, problem

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + (message.content or '') + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For a model that brings no template of its own."""
CHATML_END = "<|im_end|>"
"""How a turn of CHATML ends. To a model without a template it is mere text, so it has to be a stop string."""

_KEPT = 64
"""Number of sources whose compiled templates, or failures to compile, are kept."""
_SCRATCH = 16
"""Characters that may be made on the way, as a multiple of those of the prompt."""
_OWN_FIELDS = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})
"""Of a request: `chat_template_kwargs` can't set them once more."""


def source_for(parameters: Mapping[str, str], *, tools: bool) -> str | None:
    """Of a model's templates, the one for a request with or without tools. (A few models have one for each.)"""
    return (tools and parameters.get("chat_template_tool_use")) or parameters.get("chat_template")


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """What a request may say beside its messages, under the names that templates and other servers use."""

    tools: Tools = ()
    add_generation_prompt: bool = True
    """The prompt ends with the beginning of the assistant's next message."""
    continue_final_message: bool = False
    """The prompt ends inside the last message."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Any variables, such as `enable_thinking`."""


_DEFAULT = RenderOptions()
Mark = Callable[
    [list[Seen], list[Seen] | None, Mapping[str, Any]], tuple[list[Seen], list[Seen] | None, Mapping[str, Any]]
]


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    template: Template
    capabilities: Capabilities


class NotCompiled(Exception):
    """The template of this source has to be compiled first."""


class Templates:
    """Keeps compiled templates and renders them under a budget.

    `clock` gives processor seconds of the calling thread, so that a busy neighbour does not make a template fail;
    `now` gives the local time; `seconds` and `characters` bound one rendering, and all that is tried with a template
    once it is compiled. `compile` is called in the middle of a rendering, without a budget; None: `keep` has to bring
    what another process has compiled.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        seconds: float,
        characters: int,
        compile: Callable[[str], CompiledSource] | None = compile_source,
    ) -> None:
        self._clock = clock
        self._now = now
        self._seconds = seconds
        self._characters = characters
        self._compile = compile
        self._environment = SandboxedTemplates(raise_exception=_raise_exception, strftime_now=self._strftime_now)
        self._kept: dict[str, ChatTemplate | str] = {}
        """By source, the oldest first. A string is the problem of a source that can't be compiled."""

    def find(self, source: str) -> ChatTemplate:
        """Raises InvalidRequest for a template that can't be compiled, NotCompiled if that is not known yet."""
        found = self._kept.get(source)
        if found is None:
            try:
                check_length(source)  # costs nothing, so it is not kept
            except TemplateError as error:
                raise not_compiled(problem(error)) from None
            if self._compile is None:
                raise NotCompiled
            try:
                found = self.keep(source, self._compile(source))
            except Exception as error:  # whatever a source makes of Jinja and Python
                found = self.keep(source, problem(error))
        if isinstance(found, str):
            raise not_compiled(found)
        return found

    def keep(self, source: str, compiled: CompiledSource | str) -> ChatTemplate | str:
        """What was compiled of `source`, or the problem with it. Takes processor time within the budget."""
        found = compiled if isinstance(compiled, str) else self._tried(compiled)
        self._kept[source] = found
        for oldest in list(self._kept)[:-_KEPT]:
            self._kept.pop(oldest, None)  # another thread may be at it
        return found

    def render(
        self,
        source: str,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str],
        options: RenderOptions = _DEFAULT,
        mark: Mark | None = None,
    ) -> str:
        """The prompt. `mark` gets the messages, the tools and the variables of the request as the template would see
        them, and returns what it sees instead.

        `special_tokens` are `bos_token` and `eos_token`, where known. Raises InvalidRequest for a template that fails
        in any way, within the bounds.
        """
        self._check(options)
        chat = self.find(source)
        with self._bounded():
            form = chat.capabilities.form
            seen, tools = as_seen(messages, form), tools_as_seen(options.tools, form)
            variables = options.chat_template_kwargs
            if mark:
                seen, tools, variables = mark(seen, tools, variables)
            text = continuation.mark(seen, messages[-1]) if options.continue_final_message else None
            given = {
                "messages": seen,
                "tools": tools,
                "documents": None,
                "add_generation_prompt": options.add_generation_prompt,
                **special_tokens,
                **variables,
            }
            prompt = self._written(chat.template, given)
            return prompt if text is None else continuation.cut(prompt, text)

    def capabilities(self, source: str) -> Capabilities:
        """Kept with the compiled template. Raises what `find` raises."""
        return self.find(source).capabilities

    def _check(self, options: RenderOptions) -> None:
        if options.continue_final_message and options.add_generation_prompt:
            raise InvalidRequest(
                "'continue_final_message' goes on with the last message, 'add_generation_prompt' begins another one; "
                "set one of them to false.",
                param="continue_final_message",
            )
        for name in options.chat_template_kwargs:
            if name in _OWN_FIELDS or name in self._environment.globals:
                raise InvalidRequest(
                    f"'chat_template_kwargs' can't set '{shortened(name)}'.",
                    param=f"chat_template_kwargs.{shortened(name)}",
                )

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        reset = CURRENT.set(self._budget())
        try:
            yield
        except InvalidRequest:
            raise
        except Exception as error:  # a template can raise whatever an expression can
            raise _failed("render these messages", problem(error)) from None
        finally:
            CURRENT.reset(reset)

    def _budget(self) -> Budget:
        return Budget(self._clock, self._seconds, _SCRATCH * self._characters)

    def _written(self, template: Template, given: dict[str, Any]) -> str:
        pieces, size = [], 0
        for piece in template.generate(given):
            size += len(piece)
            if size > self._characters:
                raise LimitExceeded(f"the prompt is longer than {self._characters} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _tried(self, compiled: CompiledSource) -> ChatTemplate | str:
        try:
            template = self._environment.template(compiled.code)
        except Exception as error:  # as above
            return problem(error)

        def attempt(messages: Sequence[Message], form: Form, tools: Tools) -> str | None:
            given = {
                "messages": as_seen(messages, form),
                "tools": tools_as_seen(tools, form),
                "documents": None,
                "add_generation_prompt": True,
                "bos_token": "",
                "eos_token": "",
            }
            try:
                return self._written(template, given)
            except BOUNDS:
                raise
            except Exception:  # as above
                return None

        reset = CURRENT.set(self._budget())
        try:
            return ChatTemplate(template, capabilities(compiled, attempt))
        finally:
            CURRENT.reset(reset)

    def _strftime_now(self, format: str) -> str:
        if len(format) > 100:
            raise TemplateRuntimeError("strftime_now: the format is too long")
        return self._now().strftime(format)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRuntimeError(str(message) if isinstance(message, str) else "raise_exception")


def not_compiled(problem: str) -> InvalidRequest:
    return _failed("be compiled", problem)


def _failed(what: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"The chat template can't {what}: {problem}", param="messages", code="chat_template_failed")
