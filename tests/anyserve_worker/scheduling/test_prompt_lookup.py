"""Drafts from earlier text: their contents, the index that finds them, and pauses after rejected ones."""

from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.scheduling.prompt_lookup import MAX_INDEXED, MAX_PAUSE, MAX_ROWS, NGRAM, PromptLookup, max_rows


def tokens(text: str) -> "array[int]":
    return array("i", list(text.encode()))


def draft(text: str, max_draft: int = 4) -> str:
    return bytes(PromptLookup().draft(tokens(text), max_draft)).decode()


def scan(context: "array[int]", max_draft: int) -> tuple[int, ...]:
    """Returns the expected draft by a scan of all positions."""
    for position in range(len(context) - 1, NGRAM - 1, -1):
        if context[position - NGRAM : position] == context[-NGRAM:]:
            return tuple(context[position : position + max_draft])
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
def test_a_draft_is_the_text_that_followed_the_same_tokens_before(text: str, expected: str) -> None:
    assert draft(text) == expected


def test_a_draft_has_at_most_the_requested_length() -> None:
    assert [draft("abcdefgh abc", max_draft) for max_draft in (1, 3, 5)] == ["d", "def", "defgh"]


@given(data=st.data())
def test_the_index_finds_what_a_scan_finds(data: st.DataObject) -> None:
    """The sequence grows by any number of tokens between drafts."""
    growing, lookup = array("i"), PromptLookup()
    for new_tokens in data.draw(st.lists(st.lists(st.integers(0, 3), max_size=20), max_size=12)):
        growing.extend(new_tokens)
        max_draft = data.draw(st.integers(1, 6))
        assert lookup.draft(growing, max_draft) == scan(growing, max_draft)


@given(st.lists(st.integers(0, 5)), st.integers(1, 16))
def test_a_draft_is_a_continuation_that_occurred_before(context: list[int], max_draft: int) -> None:
    drafted = PromptLookup().draft(array("i", context), max_draft)
    assert len(drafted) <= max_draft
    if drafted:
        followed = [*context[-NGRAM:], *drafted]
        assert any(context[i : i + len(followed)] == followed for i in range(len(context)))


def test_a_long_prompt_is_indexed_over_several_drafts() -> None:
    """Until all of it is indexed, drafts come from the indexed part."""
    lookup, long = PromptLookup(), array("i", [1, 2, 3, 8, *range(10, 10 + 2 * MAX_INDEXED), 1, 2, 3, 9, 1, 2, 3])
    assert [lookup.draft(long, 1) for _ in range(3)] == [(8,), (8,), (9,)]


def steps_with_drafts(lookup: PromptLookup, n: int, accepted: int) -> list[int]:
    """Returns which of the next `n` steps have a draft, if `accepted` tokens of each draft are accepted."""
    steps = []
    for step in range(n):
        if drafted := lookup.draft(tokens("abcdefgh abc"), 4):
            lookup.record(len(drafted), accepted)
            steps.append(step)
    return steps


def test_pauses_grow_after_rejected_drafts_up_to_a_limit() -> None:
    steps = steps_with_drafts(PromptLookup(), 400, accepted=0)
    pauses = [after - before - 1 for before, after in pairwise(steps)]
    assert pauses[:7] == [1, 3, 7, 15, 31, MAX_PAUSE, MAX_PAUSE]
    assert set(pauses[5:]) == {MAX_PAUSE}


@pytest.mark.parametrize("accepted", [1, 4])
def test_accepted_drafts_cause_no_pause(accepted: int) -> None:
    assert steps_with_drafts(PromptLookup(), 5, accepted) == [0, 1, 2, 3, 4]


def test_an_accepted_draft_ends_the_pauses() -> None:
    lookup = PromptLookup()
    steps_with_drafts(lookup, 100, accepted=0)
    while not (drafted := lookup.draft(tokens("abcdefgh abc"), 4)):
        pass
    assert len(drafted) == 1, "the draft after a rejected one is short"
    lookup.record(len(drafted), 1)
    assert steps_with_drafts(lookup, 6, accepted=0) == [0, 2]


def test_the_rows_of_a_step_are_limited_but_fit_one_draft() -> None:
    assert [max_rows(max_draft) for max_draft in (1, MAX_ROWS, 16)] == [MAX_ROWS, MAX_ROWS + 1, 17]
