"""Prompts as Hugging Face's transformers makes them, with an environment and rules written by others.

A conversation has the form that its documentation asks for, which is not OpenAI's: arguments of a tool call are an
object, and what is not there is left out.
"""

from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

from jinja2 import meta
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

BOS, EOS = "<s>", "</s>"


class Refused(Exception):
    """With the template's own words, or what Jinja or Python said."""


def render(source: str, conversation: Sequence[dict[str, Any]], now: datetime, **variables: Any) -> str:
    # The environment belongs to this template alone, and would ask the real clock.
    _compile_jinja_template(source).environment.globals["strftime_now"] = now.strftime
    try:
        prompts, _ = render_jinja_template(  # type: ignore[str-unpack]  # it is annotated wrongly
            [deepcopy(list(conversation))], chat_template=source, bos_token=BOS, eos_token=EOS, **variables
        )
    except Exception as error:
        raise Refused(str(error)) from None
    return prompts[0]


def variables(source: str) -> frozenset[str]:
    """What the template may read of what it is given."""
    return frozenset(meta.find_undeclared_variables(_compile_jinja_template(source).environment.parse(source)))
