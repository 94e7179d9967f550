"""The first events of a stream of `/v1/responses`. PURE.

A background response is created, then queued, and in progress when a runner has taken it. Clients require that
`response.created` comes first.
"""

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.output.state import in_progress, queued
from openai_server.api.responses.output.stream_events import (
    ResponseCreated,
    ResponseInProgress,
    ResponseQueued,
    StreamEvent,
)
from openai_server.api.responses.settings import Settings

N_BEFORE_RUN = 2
"""Number of the events of a background response before it is in progress."""


def queued_events(identity: AnswerIdentity, settings: Settings) -> tuple[StreamEvent, ...]:
    """The events of a background response before it is in progress, with their numbers."""
    response = queued(identity, settings)
    return ResponseCreated(response=response), ResponseQueued(response=response, sequence_number=1)


def first_events(identity: AnswerIdentity, settings: Settings) -> tuple[StreamEvent, ...]:
    """The events at the beginning of a generation. For a background response, they follow `queued_events`."""
    response = in_progress(identity, settings)
    begun = ResponseInProgress(response=response)
    return (begun,) if settings.background else (ResponseCreated(response=response), begun)
