"""The response object at the beginning and at the end of a response. PURE."""

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.answer import (
    IncompleteDetails,
    ResponseConversation,
    ResponseError,
    ResponseInputTokens,
    ResponseItem,
    ResponseObject,
    ResponseOutputTokens,
    ResponseUsage,
)
from openai_server.api.responses.settings import Settings
from openai_server.core.usage import Usage
from protos import contract

INCOMPLETE: dict[str | None, Literal["max_output_tokens", "content_filter"]] = {
    contract.FINISH_LENGTH: "max_output_tokens",
    "content_filter": "content_filter",
}
"""Finish reasons of an answer that was cut off, and the reasons in `incomplete_details`."""


def queued(identity: AnswerIdentity, settings: Settings) -> ResponseObject:
    return _response(identity, settings, "queued")


def in_progress(identity: AnswerIdentity, settings: Settings) -> ResponseObject:
    return _response(identity, settings, "in_progress")


def finished(
    identity: AnswerIdentity,
    settings: Settings,
    output: Sequence[ResponseItem],
    finish_reason: str | None,
    used: Usage | None,
    now: float,
) -> ResponseObject:
    """The response to an answer that ended for this reason, `completed` or `incomplete`. `now`: Unix seconds."""
    if (reason := INCOMPLETE.get(finish_reason)) is not None:
        details = IncompleteDetails(reason)
        return _response(identity, settings, "incomplete", output, usage=usage(used), incomplete_details=details)
    return _response(identity, settings, "completed", output, usage=usage(used), completed_at=int(now))


def failed(
    identity: AnswerIdentity, settings: Settings, output: Sequence[ResponseItem], error: ResponseError
) -> ResponseObject:
    return _response(identity, settings, "failed", output, error=error)


def cancelled(identity: AnswerIdentity, settings: Settings, output: Sequence[ResponseItem]) -> ResponseObject:
    return _response(identity, settings, "cancelled", output)


def usage(used: Usage | None) -> ResponseUsage | None:
    """None if the backend doesn't count."""
    if used is None:
        return None
    return ResponseUsage(
        used.prompt,
        ResponseInputTokens(used.cached or 0, 0),
        used.completion,
        ResponseOutputTokens(used.marked or 0),
        used.prompt + used.completion,
    )


def _response(
    identity: AnswerIdentity,
    settings: Settings,
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"],
    output: Sequence[ResponseItem] = (),
    *,
    completed_at: int | None = None,
    error: ResponseError | None = None,
    incomplete_details: IncompleteDetails | None = None,
    usage: ResponseUsage | None = None,
) -> ResponseObject:
    return ResponseObject(
        id=identity.id,
        created_at=identity.created,
        completed_at=completed_at,
        status=status,
        background=settings.background,
        conversation=UNSET if settings.conversation is None else ResponseConversation(settings.conversation),
        error=error,
        incomplete_details=incomplete_details,
        instructions=settings.instructions,
        max_output_tokens=settings.max_output_tokens,
        max_tool_calls=settings.max_tool_calls,
        model=identity.model,
        output=output,
        parallel_tool_calls=settings.parallel_tool_calls,
        presence_penalty=settings.presence_penalty,
        frequency_penalty=settings.frequency_penalty,
        previous_response_id=settings.previous_response_id,
        prompt_cache_key=settings.prompt_cache_key,
        reasoning=settings.reasoning,
        safety_identifier=settings.safety_identifier,
        service_tier=settings.service_tier,
        store=settings.store,
        temperature=settings.temperature,
        text=settings.text,
        tool_choice=settings.tool_choice,
        tools=settings.tools,
        top_logprobs=settings.top_logprobs,
        top_p=settings.top_p,
        truncation=settings.truncation,
        usage=usage,
        user=settings.user,
        metadata=settings.metadata,
    )
