"""Drafts: that they occurred before, how they are found, and when a sequence pauses drafting."""

from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.scheduling.prompt_lookup import MAX_INDEXED, MAX_PAUSE, MAX_ROWS, NGRAM, PromptLookup, max_rows


def tokens(text: str) -> "array[int]":
    return array("i", list(text.encode()))


def draft(text: str, most: int = 4) -> str:
    return bytes(PromptLookup().draft(tokens(text), most)).decode()


def scan(given: "array[int]", most: int) -> tuple[int, ...]:
    """Returns the expected draft, by searching everywhere."""
    for position in range(len(given) - 1, NGRAM - 1, -1):
        if given[position - NGRAM : position] == given[-NGRAM:]:
            return tuple(given[position : position + most])
    return ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("a", ""),
        ("ab", ""),
        ("abcd", ""),
        ("abcdefgh abc", "defg"),
        ("abcX abcY abc", "Y ab"),
        ("abcX zbc", ""),
        ("aaaa", "a"),
        ("ababab", "ab"),
    ],
    ids=["empty", "one", "two", "new", "found", "the last one", "2 are too few", "itself", "overlap"],
)
def test_the_draft_is_what_followed_the_last_tokens_before(text: str, expected: str) -> None:
    assert draft(text) == expected


def test_a_draft_is_no_longer_than_it_may_be() -> None:
    assert [draft("abcdefgh abc", most) for most in (1, 3, 5)] == ["d", "def", "defgh"]


@given(data=st.data())
def test_the_index_finds_what_a_scan_finds(data: st.DataObject) -> None:
    """This holds however the sequence grows between the drafts."""
    growing, lookup = array("i"), PromptLookup()
    for more in data.draw(st.lists(st.lists(st.integers(0, 3), max_size=20), max_size=12)):
        growing.extend(more)
        most = data.draw(st.integers(1, 6))
        assert lookup.draft(growing, most) == scan(growing, most)


@given(st.lists(st.integers(0, 5)), st.integers(1, 16))
def test_a_draft_is_a_continuation_that_occurred(given_tokens: list[int], most: int) -> None:
    found = PromptLookup().draft(array("i", given_tokens), most)
    assert len(found) <= most
    if found:
        followed = [*given_tokens[-NGRAM:], *found]
        assert any(given_tokens[i : i + len(followed)] == followed for i in range(len(given_tokens)))


def test_a_long_prompt_is_indexed_bit_by_bit() -> None:
    """Until then the indexed part is used."""
    lookup, long = PromptLookup(), array("i", [1, 2, 3, 8, *range(10, 10 + 2 * MAX_INDEXED), 1, 2, 3, 9, 1, 2, 3])
    assert [lookup.draft(long, 1) for _ in range(3)] == [(8,), (8,), (9,)]


def steps_with_drafts(lookup: PromptLookup, n: int, accepted: int) -> list[int]:
    """Which of the next `n` steps have a draft, if so many tokens of each are accepted."""
    steps = []
    for step in range(n):
        if found := lookup.draft(tokens("abcdefgh abc"), 4):
            lookup.record(len(found), accepted)
            steps.append(step)
    return steps


def test_after_drafts_that_are_rejected_pauses_grow_to_a_bound() -> None:
    steps = steps_with_drafts(PromptLookup(), 400, accepted=0)
    pauses = [after - before - 1 for before, after in pairwise(steps)]
    assert pauses[:7] == [1, 3, 7, 15, 31, MAX_PAUSE, MAX_PAUSE]
    assert set(pauses[5:]) == {MAX_PAUSE}


@pytest.mark.parametrize("accepted", [1, 4])
def test_drafts_that_pay_go_on(accepted: int) -> None:
    assert steps_with_drafts(PromptLookup(), 5, accepted) == [0, 1, 2, 3, 4]


def test_a_draft_that_pays_ends_the_pauses() -> None:
    lookup = PromptLookup()
    steps_with_drafts(lookup, 100, accepted=0)
    while not (found := lookup.draft(tokens("abcdefgh abc"), 4)):
        pass
    assert len(found) == 1, "a rejected draft makes the next one short"
    lookup.record(len(found), 1)
    assert steps_with_drafts(lookup, 6, accepted=0) == [0, 2]


def test_a_step_stays_small_but_has_room_for_one_draft() -> None:
    assert [max_rows(most) for most in (1, MAX_ROWS, 16)] == [MAX_ROWS, MAX_ROWS + 1, 17]
