"""Renders messages to a prompt, with the model's own chat template.

PURE: clocks are passed in. Templates are written for Hugging Face's transformers, so the environment is the same
(transformers, `utils/chat_template_utils.py`): `messages`, `tools`, `documents`, `add_generation_prompt`, the special
tokens, `tojson`, `raise_exception`, `strftime_now`, loop controls and the generation tag. `test_corpus.py` compares the
prompts of both for the templates of many models.
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
from openai_server.prompting.capabilities import LIMIT_ERRORS, Capabilities, capabilities
from openai_server.prompting.limits import CURRENT, Budget, LimitExceeded
from openai_server.prompting.messages import Form, TemplateObject, Tools, template_messages, template_tools
from openai_server.prompting.sandbox import SandboxedTemplates
from openai_server.prompting.source import CompiledSource, check_length, compile_source, problem

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + (message.content or '') + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The template for a model of a server with the contract's extensions that has none."""
TEMPLATE_FAILED = "chat_template_failed"
"""The code of errors that a template causes."""
CHATML_END = "<|im_end|>"
"""The end of a message in CHATML. A model without a template may not have it as a token, so it is a stop string."""

_MAX_CACHED = 64
"""Number of sources whose compiled templates, or failures to compile, are cached."""
_SCRATCH_FACTOR = 16
"""Characters that a rendering may create in total, as a multiple of the maximum length of the prompt."""
_RESERVED_NAMES = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})
"""Variables that the request sets by its own fields, so that `chat_template_kwargs` can't."""


def source_for(parameters: Mapping[str, str], *, tools: bool) -> str | None:
    """The model's template for a request with or without tools; None if it has none. A few models have two."""
    return (tools and parameters.get("chat_template_tool_use")) or parameters.get("chat_template")


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """The options of a rendering besides the messages. The names are those of templates and other servers."""

    tools: Tools = ()
    add_generation_prompt: bool = True
    """Whether the prompt ends with the beginning of the assistant's next message."""
    continue_final_message: bool = False
    """Whether the prompt ends inside the last message."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Additional variables, such as `enable_thinking`."""


_DEFAULT = RenderOptions()
MarkFields = Callable[
    [list[TemplateObject], list[TemplateObject] | None, Mapping[str, Any]],
    tuple[list[TemplateObject], list[TemplateObject] | None, Mapping[str, Any]],
]


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    template: Template
    capabilities: Capabilities


class NotCompiled(Exception):
    """The template with this source must be compiled first."""


class Templates:
    """Caches compiled templates and renders them with a budget.

    `clock` returns processor seconds of the calling thread, so that other load on the machine doesn't make a template
    fail. `now` returns the local time. `seconds` and `characters` limit one rendering, and also all attempts that
    determine a template's capabilities. `compile` is called during a rendering, without a budget; if it is None, `keep`
    must be called with the result of another process.
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
        self._cached: dict[str, ChatTemplate | str] = {}
        """Templates by source, oldest first. A string describes why a source can't be compiled."""

    def find(self, source: str) -> ChatTemplate:
        """Raises InvalidRequest for a template that can't be compiled, NotCompiled if it hasn't been compiled yet."""
        template = self._cached.get(source)
        if template is None:
            try:
                check_length(source)  # cheap, so the result isn't cached
            except TemplateError as error:
                raise not_compiled(problem(error)) from None
            if self._compile is None:
                raise NotCompiled
            try:
                template = self.keep(source, self._compile(source))
            except Exception as error:  # a source can cause any exception in Jinja and Python
                template = self.keep(source, problem(error))
        if isinstance(template, str):
            raise not_compiled(template)
        return template

    def keep(self, source: str, compiled: CompiledSource | str) -> ChatTemplate | str:
        """Caches a compiled template and returns it, or the problem with it. Stays within the budget."""
        template = compiled if isinstance(compiled, str) else self._probe(compiled)
        self._cached[source] = template
        for oldest in list(self._cached)[:-_MAX_CACHED]:
            self._cached.pop(oldest, None)  # another thread may have removed it
        return template

    def render(
        self,
        source: str,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str],
        options: RenderOptions = _DEFAULT,
        mark: MarkFields | None = None,
    ) -> str:
        """The prompt. `mark` replaces the messages, tools and variables, which it gets in the template's form.

        `special_tokens` are `bos_token` and `eos_token`, where known. Raises InvalidRequest if the template fails or
        exceeds its budget.
        """
        self._check(options)
        chat = self.find(source)
        with self._bounded():
            form = chat.capabilities.form
            objects, tools = template_messages(messages, form), template_tools(options.tools, form)
            variables = options.chat_template_kwargs
            if mark:
                objects, tools, variables = mark(objects, tools, variables)
            text = continuation.mark(objects, messages[-1]) if options.continue_final_message else None
            context = {
                "messages": objects,
                "tools": tools,
                "documents": None,
                "add_generation_prompt": options.add_generation_prompt,
                **special_tokens,
                **variables,
            }
            prompt = self._generate(chat.template, context)
            return prompt if text is None else continuation.cut(prompt, text)

    def capabilities(self, source: str) -> Capabilities:
        """Cached with the compiled template. Raises what `find` raises."""
        return self.find(source).capabilities

    def _check(self, options: RenderOptions) -> None:
        if options.continue_final_message and options.add_generation_prompt:
            raise InvalidRequest(
                "'continue_final_message' continues the last message, but 'add_generation_prompt' begins a new one; "
                "set one of them to false.",
                param="continue_final_message",
            )
        for name in options.chat_template_kwargs:
            if name in _RESERVED_NAMES or name in self._environment.globals:
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
        except Exception as error:  # a template can raise any exception
            raise _failed("render these messages", problem(error)) from None
        finally:
            CURRENT.reset(reset)

    def _budget(self) -> Budget:
        return Budget(self._clock, self._seconds, _SCRATCH_FACTOR * self._characters)

    def _generate(self, template: Template, context: dict[str, Any]) -> str:
        pieces, size = [], 0
        for piece in template.generate(context):
            size += len(piece)
            if size > self._characters:
                raise LimitExceeded(f"the prompt is longer than {self._characters} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _probe(self, compiled: CompiledSource) -> ChatTemplate | str:
        try:
            template = self._environment.template(compiled.code)
        except Exception as error:  # as above
            return problem(error)

        def attempt(messages: Sequence[Message], form: Form, tools: Tools) -> str | None:
            context = {
                "messages": template_messages(messages, form),
                "tools": template_tools(tools, form),
                "documents": None,
                "add_generation_prompt": True,
                "bos_token": "",
                "eos_token": "",
            }
            try:
                return self._generate(template, context)
            except LIMIT_ERRORS:
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


def _failed(action: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"The chat template can't {action}: {problem}", param="messages", code=TEMPLATE_FAILED)
