"""Prompts with plain spans, cut in parts: their tokens are llama.cpp's for the prompt, except in the spans.

`st_partition` is llama.cpp's `tokenizer_st_partition`, written down once more.
"""

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from anyserve_worker.core.spans import Spans
from anyserve_worker.text.special_text import Piece, SpecialTexts, SpecialToken

CONTROL = [SpecialToken("<s>"), SpecialToken("<se>"), SpecialToken("e>s"), SpecialToken("<s><")]
USER_DEFINED = [SpecialToken("<a>", user_defined=True), SpecialToken("<a><a>", user_defined=True)]
STRIPPING = [SpecialToken("[x]", strips_left=True, strips_right=True), SpecialToken("  ", user_defined=True)]
TOKENS = [*CONTROL, *USER_DEFINED, *STRIPPING]

Fragment = str | SpecialToken


def st_partition(text: str, tokens: Sequence[SpecialToken], *, parse_special: bool) -> list[Fragment]:
    """Texts and special tokens in order."""
    fragments: list[Fragment] = [text] if text else []
    for token in sorted(tokens, key=lambda token: -len(token.text)):
        if not parse_special and not token.user_defined:
            continue
        parted: list[Fragment] = []
        for fragment in fragments:
            rest = fragment
            while isinstance(rest, str) and token.text in rest:
                left, _, rest = rest.partition(token.text)
                left = left.rstrip() if token.strips_left else left
                parted += [left, token] if left else [token]
                rest = rest.lstrip() if token.strips_right else rest
            if rest:
                parted.append(rest)
        fragments = parted
    return fragments


def joined(pieces: Sequence[Piece], tokens: Sequence[SpecialToken] = TOKENS) -> list[Fragment]:
    """As one list of fragments, where what continues is one text with what it continues."""
    fragments: list[Fragment] = []
    for piece in pieces:
        new = st_partition(piece.text, tokens, parse_special=piece.parse_special)
        if piece.continues and new and isinstance(new[0], str) and fragments and isinstance(fragments[-1], str):
            fragments[-1] += new.pop(0)  # type: ignore[operator]
        fragments += new
    return fragments


TEXTS = st.lists(
    st.sampled_from(["<s>", "<se>", "e>s", "<a>", "[x]", "  ", " ", "b", "<", ">", "s", "\n"]), max_size=12
).map("".join)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[str, Spans]:
    text = draw(TEXTS)
    edges = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    return text, tuple(zip(edges[::2], edges[1::2], strict=False))


@given(TEXTS)
def test_without_spans_all_is_one_piece(text: str) -> None:
    assert SpecialTexts(TOKENS).pieces(text, ()) == ([Piece(text, True)] if text else [])


@given(prompts())
@example(("<s>a<s>", ((0, 3),)))
@example(("<s>  [x]", ((3, 4),)))
def test_no_token_touches_a_span(prompt: tuple[str, Spans]) -> None:
    text, plain = prompt
    covered = {n for start, end in plain for n in range(start, end)}
    fragments = joined(SpecialTexts(TOKENS).pieces(text, plain))
    # Follow the fragments through the text: whitespace may have been stripped, nothing else.
    position = 0
    for fragment in fragments:
        wanted = fragment if isinstance(fragment, str) else fragment.text
        while not text.startswith(wanted, position):
            assert text[position].isspace()
            position += 1
        if isinstance(fragment, SpecialToken) and fragment.text.strip():
            assert covered.isdisjoint(range(position, position + len(wanted)))
        position += len(wanted)
    assert not text[position:].strip()


APART = [token for token in TOKENS if token.text not in ("e>s", "<s><", "  ")]
"""None of them begins in another one and ends behind it."""


@given(TEXTS, st.lists(st.sampled_from(["b", "<s>", " <se>", "<a>", "[x] ", "\n", "é<s>"]), max_size=4), TEXTS)
def test_a_field_between_two_control_tokens(before: str, field: list[str], after: str) -> None:
    """Around it, tokens are read as they would be without it; it is one text."""
    content, start = "".join(field), len(before) + len("<se>")
    plain = [(start, start + len(content))] if content else []
    fragments = joined(SpecialTexts(APART).pieces(f"{before}<se>{content}<se>{after}", plain), APART)
    assert fragments == [
        *st_partition(f"{before}<se>", APART, parse_special=True),
        *([content] if content else []),
        *st_partition(f"<se>{after}", APART, parse_special=True),
    ]


def test_a_run_is_one_text() -> None:
    texts = SpecialTexts(TOKENS)
    prompt = "<s>u hi<se>there<s>you<s>a"
    assert texts.pieces(prompt, [(6, 10)]) == [
        Piece("<s>", True),
        Piece("u hi<se>there", False),
        Piece("<s>you<s>a", True),
    ]


def test_user_defined_tokens_are_cut_in_spans_alone() -> None:
    texts = SpecialTexts(TOKENS)
    assert texts.pieces("<se><a>x<a><a>y", [(8, 14)]) == [
        Piece("<se>", True),
        Piece("<a>x<", False),
        Piece("a><", False, continues=True),
        Piece("a>y", False, continues=True),
    ]


def test_whitespace_that_a_token_strips_is_stripped() -> None:
    texts = SpecialTexts(TOKENS)
    assert texts.pieces("[x] \n <s> [x]", [(6, 9)]) == [Piece("[x]", True), Piece("<s>", False), Piece("[x]", True)]


def test_spans_may_be_longer_than_the_part_that_is_looked_at() -> None:
    texts = SpecialTexts(TOKENS)
    assert texts.pieces("a<s>b", [(1, 40), (50, 60)]) == [Piece("a<s>b", False)]


@given(TEXTS, TEXTS, TEXTS)
def test_nothing_of_a_field_is_read(before: str, field: str, after: str) -> None:
    texts = SpecialTexts(CONTROL)
    text, start, end = before + field + after, len(before), len(before) + len(field)
    spans = texts.inside(text, [(start, end)], "")
    position = 0
    for piece in texts.pieces(text, spans):
        assert text.startswith(piece.text, position)
        for fragment in st_partition(piece.text, CONTROL, parse_special=piece.parse_special):
            n = len(fragment if isinstance(fragment, str) else fragment.text)
            if isinstance(fragment, SpecialToken):
                assert position + n <= start or end <= position
            position += n


def test_only_the_markup_among_user_defined_tokens_is_kept_out_of_a_field() -> None:
    texts = SpecialTexts([*CONTROL, SpecialToken("<sep>", user_defined=True), SpecialToken("<b>", user_defined=True)])
    assert texts.inside("<sep><b><s>", [(0, 11)], "{query}<sep>{document}") == [(0, 5), (8, 11)]
