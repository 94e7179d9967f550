import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.access.tier_limits import TierLimits
from openai_server.core.errors import NoFlexCapacity
from openai_server.core.tiers import DEFAULT, FLEX, PRIORITY, Tier


@pytest.mark.parametrize("name", ["auto", "default", "scale"])
def test_other_tiers_have_no_limit(name: str) -> None:
    limits = TierLimits(max_priority=0, max_flex=0)
    assert limits.take("a", name) is DEFAULT


def test_priority_beyond_its_limit_is_the_default() -> None:
    limits = TierLimits(max_priority=2, max_flex=0)
    assert [limits.take("a", name) for name in ("priority", "fast", "ultrafast")] == [PRIORITY, PRIORITY, DEFAULT]
    assert limits.take("b", "priority") is PRIORITY
    limits.give_back("a", PRIORITY)
    assert [limits.take("a", "priority") for _ in range(2)] == [PRIORITY, DEFAULT]


def test_flex_beyond_its_limit_is_refused() -> None:
    limits = TierLimits(max_priority=0, max_flex=1)
    assert limits.take("a", "flex") is FLEX
    with pytest.raises(NoFlexCapacity) as caught:
        limits.take("a", "flex")
    assert (caught.value.status, caught.value.code) == (429, "resource_unavailable")
    assert caught.value.headers["retry-after"]
    assert limits.take("b", "flex") is FLEX


def test_flex_without_a_client_has_no_limit() -> None:
    limits = TierLimits(max_priority=0, max_flex=1)
    assert [limits.take("a", "flex", has_client=False) for _ in range(3)] == [FLEX] * 3
    assert limits.take("a", "flex") is FLEX
    limits.give_back("a", FLEX, has_client=False)
    with pytest.raises(NoFlexCapacity):
        limits.take("a", "flex")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.sampled_from(["flex", "priority", "auto"]))))
def test_counts_are_exact(steps: list[tuple[bool, str, str]]) -> None:
    limits = TierLimits(max_priority=2, max_flex=3)
    taken: list[tuple[str, Tier]] = []
    for arrives, caller, name in steps:
        if not arrives:
            if taken:
                limits.give_back(*taken.pop())
            continue
        before = sum(owner == caller and tier.name == name for owner, tier in taken)
        try:
            taken.append((caller, limits.take(caller, name)))
        except NoFlexCapacity:
            assert (name, before) == ("flex", 3)
        else:
            assert taken[-1][1].name == ("default" if name == "auto" or (name, before) == ("priority", 2) else name)
    for caller, tier in taken:
        limits.give_back(caller, tier)
    assert not limits._running
