"""One regular expression for many texts finds what a search for each of them finds."""

from hypothesis import given
from hypothesis import strategies as st

from protos.literals import occurrences, pattern_of

TEXTS = st.text(alphabet="<|a.>", min_size=1, max_size=5)


@given(st.lists(TEXTS, max_size=12), st.text(alphabet="<|a.>", max_size=40))
def test_the_longest_at_each_place(texts: list[str], text: str) -> None:
    expected = {}
    for start in range(len(text)):
        if here := [each for each in texts if text.startswith(each, start)]:
            expected[start] = max(here, key=len)
    assert {found.start(): found[0] for found in occurrences(pattern_of(texts), text)} == expected


@given(st.lists(TEXTS, max_size=12), TEXTS)
def test_it_matches_nothing_else(texts: list[str], text: str) -> None:
    assert (pattern_of(texts).fullmatch(text) is not None) == (text in texts)


def test_thousands_of_texts() -> None:
    texts = [f"<unused{i}>" for i in range(7000)]
    assert [found[0] for found in occurrences(pattern_of(texts), "a <unused7000> <unused69> <unused6999>")] == [
        "<unused69>",
        "<unused6999>",
    ]
