"""Turns a chat into a prompt with a chat template. PURE.

The template is the operator's, and runs in Jinja's sandbox.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.http_api.schema import Prompt

_FORMATS = {
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n",
        ["<|im_end|>"],
    ),
    "plain": (
        "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
        "{% else %}{{ message.role | capitalize }}: {{ message.content }}\n{% endif %}{% endfor %}Assistant:",
        ["\nUser:"],
    ),
}
"""Templates, and the texts that end an answer."""


class _Refused(Exception):
    pass


def _refuse(message: str) -> None:
    raise _Refused(message)


class PromptTemplate:
    def __init__(self, settings: Prompt) -> None:
        """Raises ValueError."""
        source, stop = (settings.template, []) if settings.template else _FORMATS[settings.format]
        self.stop = [*stop, *settings.stop]
        """Texts that end an answer."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"prompt.template: {error}") from None

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """`messages` have a role and a text as `content`. Raises InvalidInput."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, bos_token="", eos_token="", tools=None
            )
        except _Refused as error:
            raise InvalidInput(str(error), field="messages") from None
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError):
            raise InvalidInput(
                "The model's chat template can't be applied to these messages.", field="messages"
            ) from None
