"""Access of work that goes on without its request."""

import pytest

from openai_server.access.admission import Admission
from openai_server.access.cors import Cors
from openai_server.access.gate import Gate
from openai_server.access.key_ring import KeyRing
from openai_server.access.keys import Caller
from openai_server.access.rates import Rates
from openai_server.access.tier_limits import TierLimits
from openai_server.core.errors import Overloaded, RateLimited
from openai_server.core.usage import Usage
from openai_server.telemetry.metrics import Metrics

CALLER = Caller("name a", "")


def gate(*, tokens: int = 0, slots: int = 0) -> Gate:
    return Gate(
        KeyRing((), None),
        Admission(slots, 0),
        Rates(requests_per_minute=1, tokens_per_minute=tokens),
        Cors(()),
        clock=lambda: 0.0,
        queue_timeout=0,
        max_held=10,
        meter=Metrics(),
        tier_limits=TierLimits(max_priority=1, max_flex=1),
    )


async def test_it_pays_for_tokens_and_not_for_a_request() -> None:
    opened = gate(tokens=100)
    for _ in range(2):
        access = opened.enter_as(CALLER)
        assert (access.owner, access.caller_id, access.is_limited) == ("name a", "name a", True)
        access.reserve(10, 20)
        async with access:
            access.delivered([Usage(10, 5, None)], 1, 5)
        access.end()
    account = opened.rates.account("name a", 0.0)
    assert account.tokens is not None
    assert account.requests is not None
    assert (account.tokens.level(0.0), account.requests.level(0.0)) == (70, 1)
    with pytest.raises(RateLimited):
        opened.enter_as(CALLER).reserve(71, 0)


async def test_it_needs_a_slot() -> None:
    opened = gate(slots=1)
    async with opened.enter_as(CALLER):
        with pytest.raises(Overloaded):
            await opened.enter_as(CALLER).__aenter__()
    async with opened.enter_as(CALLER):
        assert opened.admission.running == 1


def test_its_bytes_count_until_it_ends() -> None:
    opened = gate()
    access = opened.enter_as(CALLER)
    access.hold(8)
    with pytest.raises(Overloaded):
        opened.enter_as(CALLER).hold(8)
    access.end()
    assert opened.held == 8
