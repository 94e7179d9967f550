"""Prompts rendered by Hugging Face's transformers, as an independent reference.

Conversations have the form that transformers documents, which is not OpenAI's: arguments of tool calls are objects,
and absent fields are left out.
"""

from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

from jinja2 import meta
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

BOS, EOS = "<s>", "</s>"


class Refused(Exception):
    """The template, Jinja or Python raised an error; the message is theirs."""


def render(source: str, conversation: Sequence[dict[str, Any]], now: datetime, **variables: Any) -> str:
    # the environment of this template would use the real clock
    _compile_jinja_template(source).environment.globals["strftime_now"] = now.strftime
    try:
        prompts, _ = render_jinja_template(  # type: ignore[str-unpack]  # it is annotated wrongly
            [deepcopy(list(conversation))], chat_template=source, bos_token=BOS, eos_token=EOS, **variables
        )
    except Exception as error:
        raise Refused(str(error)) from None
    return prompts[0]


def variables(source: str) -> frozenset[str]:
    """Returns the names of the variables that the template may read."""
    return frozenset(meta.find_undeclared_variables(_compile_jinja_template(source).environment.parse(source)))
