"""Whole answers of `/v1/completions`. PURE."""

from collections.abc import Sequence

from openai_server.api.answers import AnswerIdentity, AnswerOptions, WholeAnswer
from openai_server.api.completions.answer import Completion, CompletionChoice
from openai_server.api.completions.logprobs import LogprobsWriter
from openai_server.api.timings import answer_timings
from openai_server.api.usage import usage
from openai_server.core.answer import Answer
from openai_server.core.usage import total


def completion(identity: AnswerIdentity, answers: Sequence[Answer], options: AnswerOptions) -> WholeAnswer:
    """`answers` has one item for each prompt; the choices of prompt k follow those of prompt k - 1."""
    choices = [
        CompletionChoice(
            index,
            choice.text,
            LogprobsWriter().part(choice.logprobs) if options.logprobs else None,
            choice.finish_reason,
        )
        for index, choice in enumerate(choice for answer in answers for choice in answer.choices)
    ]
    counts = total(answer.usage for answer in answers)
    content = Completion(
        identity.id,
        "text_completion",
        identity.created,
        identity.model,
        choices,
        usage(counts),
        answer_timings(answers),
    )
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    return WholeAnswer(content, len(choices), reasons, counts)
