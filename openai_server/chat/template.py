"""Messages to a prompt, with the model's own chat template.

PURE: clocks are passed in. Templates are written for Hugging Face's transformers, so its environment is followed
(transformers, `utils/chat_template_utils.py`): `messages`, `tools`, `documents`, `add_generation_prompt`, the special
tokens, `tojson`, `raise_exception`, `strftime_now`, loop controls and the generation tag. tests/openai_server/chat/
test_corpus.py compares the two over the templates of many models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateRuntimeError, TemplateSyntaxError

from openai_server.chat import continuation
from openai_server.chat.capabilities import BOUNDS, Capabilities, capabilities
from openai_server.chat.limits import CURRENT, Budget, LimitExceeded
from openai_server.chat.messages import Form, Tools, as_seen, tools_as_seen
from openai_server.chat.sandbox import SandboxedTemplates
from openai_server.errors import InvalidRequest
from openai_server.schemas import Message

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + (message.content or '') + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For a model that brings no template of its own."""
CHATML_END = "<|im_end|>"
"""How a turn of CHATML ends. To a model without a template it is mere text, so it has to be a stop string."""

MAX_SOURCE = 1 << 20
"""Characters of a template's source. (The largest of well-known models have some 20,000.)"""
_SCRATCH = 16
"""Characters that may be made on the way, as a multiple of those of the prompt."""
_MAX_MESSAGE = 1000
"""Characters of a template's own error message that are passed on."""
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


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    template: Template
    capabilities: Capabilities


class Templates:
    """Compiles each template once and renders it under a budget.

    `clock` gives processor seconds of the calling thread, so that a busy neighbour does not make a template fail;
    `now` gives the local time; `seconds` and `characters` bound one rendering, and all that is tried with a template
    when it is compiled.
    """

    def __init__(
        self, *, clock: Callable[[], float], now: Callable[[], datetime], seconds: float, characters: int
    ) -> None:
        self._clock = clock
        self._now = now
        self._seconds = seconds
        self._characters = characters
        self._environment = SandboxedTemplates(raise_exception=_raise_exception, strftime_now=self._strftime_now)
        self._compiled = lru_cache(maxsize=16)(self._compile)

    def render(
        self,
        source: str,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str],
        options: RenderOptions = _DEFAULT,
    ) -> str:
        """The prompt.

        `special_tokens` are `bos_token` and `eos_token`, where known. Raises InvalidRequest for a template that fails
        in any way, within the bounds.
        """
        self._check(options)
        with self._bounded():
            chat = self._compiled(source)
            form = chat.capabilities.form
            seen = as_seen(messages, form)
            text = continuation.mark(seen, messages[-1]) if options.continue_final_message else None
            given = {
                "messages": seen,
                "tools": tools_as_seen(options.tools, form),
                "documents": None,
                "add_generation_prompt": options.add_generation_prompt,
                **special_tokens,
                **options.chat_template_kwargs,
            }
            prompt = self._written(chat.template, given)
            return prompt if text is None else continuation.cut(prompt, text)

    def capabilities(self, source: str) -> Capabilities:
        """Kept with the compiled template. Raises InvalidRequest for one that can't be compiled."""
        with self._bounded():
            return self._compiled(source).capabilities

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
                    f"'chat_template_kwargs' can't set '{name}'.", param=f"chat_template_kwargs.{name}"
                )

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        reset = CURRENT.set(self._budget())
        try:
            yield
        except InvalidRequest:
            raise
        except TemplateSyntaxError as error:
            raise _failed(f"{error.message} (line {error.lineno})") from None
        except RecursionError:
            raise _failed("it nests too deeply") from None
        except MemoryError:
            raise _failed("it takes too much memory") from None
        except TemplateError as error:
            raise _failed(error.message or "") from None
        except Exception as error:  # a template can raise whatever an expression can
            raise _failed(f"{type(error).__name__}: {error}") from None
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

    def _compile(self, source: str) -> ChatTemplate:
        if len(source) > MAX_SOURCE:
            raise TemplateRuntimeError(f"its source is longer than {MAX_SOURCE} characters")
        template = self._environment.compiled(source)

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
            return ChatTemplate(template, capabilities(self._environment.parse(source), attempt))
        finally:
            CURRENT.reset(reset)

    def _strftime_now(self, format: str) -> str:
        if len(format) > 100:
            raise TemplateRuntimeError("strftime_now: the format is too long")
        return self._now().strftime(format)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRuntimeError(str(message) if isinstance(message, str) else "raise_exception")


def _failed(problem: str) -> InvalidRequest:
    if len(problem) > _MAX_MESSAGE:
        problem = problem[:_MAX_MESSAGE] + "…"
    return InvalidRequest(
        f"The chat template can't render these messages: {problem}", param="messages", code="chat_template_failed"
    )
