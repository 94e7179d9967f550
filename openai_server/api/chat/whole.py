"""Whole answers of `/v1/chat/completions`. PURE."""

from collections.abc import Sequence

from msgspec import UNSET

from openai_server.api.answers import AnswerIdentity, AnswerOptions, WholeAnswer
from openai_server.api.chat.answer import AnswerMessage, ChatChoice, ChatCompletion
from openai_server.api.chat.logprobs import chat_logprobs
from openai_server.api.chat.message import message_of
from openai_server.api.timings import answer_timings
from openai_server.api.usage import usage
from openai_server.core.answer import Answer
from openai_server.core.events import Finish
from openai_server.core.usage import total
from openai_server.parsing.readers import reader_of


def chat_completion(identity: AnswerIdentity, answers: Sequence[Answer], options: AnswerOptions) -> WholeAnswer:
    """`answers` has one item: a chat is one prompt."""
    choices = []
    for index, choice in enumerate(choice for answer in answers for choice in answer.choices):
        message, reason = AnswerMessage("assistant", choice.text, None), choice.finish_reason
        if format := options.format:
            events = reader_of(format).read(choice.text, reason, ended=True)
            message = message_of(events, legacy=format.legacy, must_call=format.must_call)
            reason = events[-1].reason if events and isinstance(events[-1], Finish) else None
        logprobs = chat_logprobs(choice.logprobs) if options.logprobs else None
        choices.append(ChatChoice(index, message, logprobs, reason))
    counts = total(answer.usage for answer in answers)
    content = ChatCompletion(
        identity.id,
        "chat.completion",
        identity.created,
        identity.model,
        choices,
        usage(counts),
        answer_timings(answers),
        UNSET if options.service_tier is None else options.service_tier,
    )
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    return WholeAnswer(content, len(choices), reasons, counts)
