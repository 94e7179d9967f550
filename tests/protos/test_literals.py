"""One regular expression for many texts finds the same matches as a search for each text."""

from hypothesis import given
from hypothesis import strategies as st

from protos.literals import occurrences, pattern_of

TEXTS = st.text(alphabet="<|a.>", min_size=1, max_size=5)


@given(st.lists(TEXTS, max_size=12), st.text(alphabet="<|a.>", max_size=40))
def test_the_longest_text_matches_at_each_position(texts: list[str], text: str) -> None:
    expected = {}
    for start in range(len(text)):
        if candidates := [candidate for candidate in texts if text.startswith(candidate, start)]:
            expected[start] = max(candidates, key=len)
    assert {match.start(): match[0] for match in occurrences(pattern_of(texts), text)} == expected


@given(st.lists(TEXTS, max_size=12), TEXTS)
def test_the_pattern_matches_nothing_else(texts: list[str], text: str) -> None:
    assert (pattern_of(texts).fullmatch(text) is not None) == (text in texts)


def test_thousands_of_texts_fit_into_one_pattern() -> None:
    texts = [f"<unused{i}>" for i in range(7000)]
    assert [match[0] for match in occurrences(pattern_of(texts), "a <unused7000> <unused69> <unused6999>")] == [
        "<unused69>",
        "<unused6999>",
    ]
