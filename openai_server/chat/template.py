"""Messages to a prompt, with the model's own chat template.

PURE: clocks are passed in. Templates are written for Hugging Face's transformers, so its environment is followed
(transformers, `utils/chat_template_utils.py`): `messages`, `add_generation_prompt`, the special tokens, `tojson`,
`raise_exception`, `strftime_now`, loop controls and the generation tag.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import orjson
from jinja2 import Template, TemplateError, TemplateRuntimeError, TemplateSyntaxError, nodes

from openai_server.chat.limits import CURRENT, Budget
from openai_server.chat.sandbox import SandboxedTemplates
from openai_server.errors import InvalidRequest
from openai_server.schemas import AssistantMessage, Message, ToolCall, ToolMessage

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


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    template: Template
    knows_developer: bool
    """False: the template was written before that role, and gets `system` instead."""
    wants_parts: bool
    """The template loops over a message's content, and takes no string for it."""


class Templates:
    """Compiles each template once and renders it under a budget.

    `clock` gives processor seconds of the calling thread, so that a busy neighbour does not make a template fail;
    `now` gives the local time; `seconds` and `characters` bound one rendering.
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

    def render(self, source: str, messages: Sequence[Message], special_tokens: Mapping[str, str]) -> str:
        """The prompt, up to where the assistant's next message begins.

        `special_tokens` are `bos_token` and `eos_token`, where known. Raises InvalidRequest for a template that fails
        in any way, within the bounds.
        """
        reset = CURRENT.set(Budget(self._clock, self._seconds, _SCRATCH * self._characters))
        try:
            return self._render(source, messages, special_tokens)
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

    def _render(self, source: str, messages: Sequence[Message], special_tokens: Mapping[str, str]) -> str:
        chat = self._compiled(source)
        pieces, size = [], 0
        for piece in chat.template.generate(
            messages=[_seen(message, chat) for message in messages],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **special_tokens,
        ):
            size += len(piece)
            if size > self._characters:
                raise TemplateRuntimeError(f"the prompt is longer than {self._characters} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _compile(self, source: str) -> ChatTemplate:
        if len(source) > MAX_SOURCE:
            raise TemplateRuntimeError(f"its source is longer than {MAX_SOURCE} characters")
        return ChatTemplate(
            self._environment.compiled(source),
            knows_developer="developer" in source,
            wants_parts=_wants_parts(self._environment.parse(source)),
        )

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


def _wants_parts(tree: nodes.Template) -> bool:
    """Whether the template loops over the content of a message without asking first whether it is a string."""
    loops = (loop.iter for loop in tree.find_all(nodes.For))
    over_content = any(
        (isinstance(items, nodes.Getattr) and items.attr == "content")
        or (isinstance(items, nodes.Getitem) and isinstance(items.arg, nodes.Const) and items.arg.value == "content")
        for items in loops
    )
    return over_content and not any(test.name == "string" for test in tree.find_all(nodes.Test))


# ---- Messages as templates see them


def _seen(message: Message, chat: ChatTemplate) -> dict[str, Any]:
    role = message.__struct_config__.tag
    if role == "developer" and not chat.knows_developer:
        role = "system"
    seen: dict[str, Any] = {"role": role, "content": _content(message, as_parts=chat.wants_parts)}
    if message.name is not None:
        seen["name"] = message.name
    if isinstance(message, ToolMessage):
        seen["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage) and message.tool_calls:
        seen["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return seen


def _content(message: Message, *, as_parts: bool) -> str | list[dict[str, str]] | None:
    content = message.content
    if content is None:
        return None
    if as_parts:
        texts = [content] if isinstance(content, str) else [part.text for part in content]
        return [{"type": "text", "text": text} for text in texts]
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _tool_call(call: ToolCall) -> dict[str, Any]:
    """Templates expect the arguments as an object; the API has them as a string of JSON."""
    arguments: Any = call.function.arguments
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, dict):
        arguments = parsed
    return {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": arguments}}
