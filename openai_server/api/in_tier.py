"""Runs a request in its service tier. PURE."""

from msgspec.structs import replace

from openai_server.api.schemas import GenerateRequest
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.backends.metadata import Metadata
from openai_server.core.request_context import RequestContext
from openai_server.core.tiers import Tier
from openai_server.core.turn import Turn
from protos import contract


def take_tier(request: GenerateRequest, context: RequestContext) -> None:
    """Sets the tier in which the request runs, which its response reports. Raises NoFlexCapacity."""
    if request.service_tier is not None:
        context.tier = context.access.take_tier(request.service_tier)
        request.report_tier(context.tier.name)


def takes_priority(model: Metadata) -> bool:
    """Whether the model is known to have an input for the priority of a tier, so that it can be sent unasked."""
    return model.input_names is not EVERYTHING and contract.PRIORITY.name in model.input_names


def turn_in_tier(turn: Turn, tier: Tier) -> Turn:
    """The turn with the tier's priority."""
    priority = tier.priority_of(turn.sampling.priority)
    return replace(turn, sampling=replace(turn.sampling, priority=priority))
