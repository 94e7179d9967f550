"""Whole answers to OpenAI's response objects.

PURE. The types in the `openai` package are the reference of every shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from openai_server.api import chat_message, logprobs
from openai_server.api.chat_message import JsonObject
from openai_server.core.answer import Answer
from openai_server.core.events import Finish
from openai_server.core.usage import Usage, total
from openai_server.parsing.choice_reader import AnswerFormat, ChoiceReader


@dataclass(frozen=True, slots=True)
class AnswerIdentity:
    """What an answer has beside its choices; `created` is in Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What a client wants in its answer, and how the model's text is read (None: all of it is content)."""

    logprobs: bool = False
    include_usage: bool = False
    """A stream ends with the token counts."""
    format: AnswerFormat | None = None


class WholeAnswer(NamedTuple):
    """The object that is sent, and what metrics and logs need to know of it."""

    content: JsonObject
    n_choices: int
    finish_reasons: list[str]
    """Those that the backend reports."""
    usage: Usage | None


def usage(usage: Usage | None) -> JsonObject | None:
    if usage is None:
        return None
    written: JsonObject = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }
    if usage.cached is not None:
        written["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    if usage.marked is not None:
        written["completion_tokens_details"] = {"reasoning_tokens": usage.marked}
    return written


# ---- Whole answers. `answers` has one item for each prompt; the choices of prompt k follow those of prompt k - 1.


def completion(identity: AnswerIdentity, answers: Sequence[Answer], options: AnswerOptions) -> WholeAnswer:
    choices = [
        {
            "index": index,
            "text": choice.text,
            "logprobs": logprobs.CompletionLogprobs().part(choice.logprobs) if options.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(choice for answer in answers for choice in answer.choices)
    ]
    return _whole(identity, "text_completion", choices, answers)


def chat_completion(identity: AnswerIdentity, answers: Sequence[Answer], options: AnswerOptions) -> WholeAnswer:
    choices = []
    for index, choice in enumerate(choice for answer in answers for choice in answer.choices):
        message: JsonObject = {"role": "assistant", "content": choice.text, "refusal": None}
        reason = choice.finish_reason
        if format := options.format:
            events = ChoiceReader(format).read(choice.text, reason, ended=True)
            message = chat_message.message(events, legacy=format.legacy, must_call=format.must_call)
            reason = events[-1].reason if events and isinstance(events[-1], Finish) else None
        tokens = logprobs.chat(choice.logprobs) if options.logprobs else None
        choices.append({"index": index, "message": message, "logprobs": tokens, "finish_reason": reason})
    return _whole(identity, "chat.completion", choices, answers)


def _whole(identity: AnswerIdentity, kind: str, choices: list[JsonObject], answers: Sequence[Answer]) -> WholeAnswer:
    used = total(answer.usage for answer in answers)
    content = {
        "id": identity.id,
        "object": kind,
        "created": identity.created,
        "model": identity.model,
        "choices": choices,
        "usage": usage(used),
    }
    reasons = [reason for choice in choices if (reason := choice["finish_reason"])]
    return WholeAnswer(content, len(choices), reasons, used)
