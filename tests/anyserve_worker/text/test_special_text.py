"""Prompts with plain spans are cut into pieces: tokens are those of llama.cpp, except inside the spans.

`st_partition` is a copy of llama.cpp's `tokenizer_st_partition`.
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
    """Returns the texts and special tokens in order."""
    fragments: list[Fragment] = [text] if text else []
    for token in sorted(tokens, key=lambda token: -len(token.text)):
        if not parse_special and not token.user_defined:
            continue
        split_fragments: list[Fragment] = []
        for fragment in fragments:
            rest = fragment
            while isinstance(rest, str) and token.text in rest:
                before, _, rest = rest.partition(token.text)
                before = before.rstrip() if token.strips_left else before
                split_fragments += [before, token] if before else [token]
                rest = rest.lstrip() if token.strips_right else rest
            if rest:
                split_fragments.append(rest)
        fragments = split_fragments
    return fragments


def joined(pieces: Sequence[Piece], tokens: Sequence[SpecialToken] = TOKENS) -> list[Fragment]:
    """Returns the fragments of all pieces; joins the text of a piece that continues the one before."""
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
def test_a_prompt_without_spans_is_one_piece(text: str) -> None:
    assert SpecialTexts(TOKENS).pieces(text, ()) == ([Piece(text, True)] if text else [])


@given(prompts())
@example(("<s>a<s>", ((0, 3),)))
@example(("<s>  [x]", ((3, 4),)))
def test_no_special_token_overlaps_a_span(prompt: tuple[str, Spans]) -> None:
    text, plain = prompt
    covered = {n for start, end in plain for n in range(start, end)}
    fragments = joined(SpecialTexts(TOKENS).pieces(text, plain))
    # the fragments are the text, except for stripped whitespace
    position = 0
    for fragment in fragments:
        fragment_text = fragment if isinstance(fragment, str) else fragment.text
        while not text.startswith(fragment_text, position):
            assert text[position].isspace()
            position += 1
        if isinstance(fragment, SpecialToken) and fragment.text.strip():
            assert covered.isdisjoint(range(position, position + len(fragment_text)))
        position += len(fragment_text)
    assert not text[position:].strip()


NO_OVERLAP = [token for token in TOKENS if token.text not in ("e>s", "<s><", "  ")]
"""Tokens that do not overlap each other."""


@given(TEXTS, st.lists(st.sampled_from(["b", "<s>", " <se>", "<a>", "[x] ", "\n", "é<s>"]), max_size=4), TEXTS)
def test_a_field_between_control_tokens_is_one_text(before: str, field: list[str], after: str) -> None:
    """The tokens around it are the same as without it."""
    content, start = "".join(field), len(before) + len("<se>")
    plain = [(start, start + len(content))] if content else []
    fragments = joined(SpecialTexts(NO_OVERLAP).pieces(f"{before}<se>{content}<se>{after}", plain), NO_OVERLAP)
    assert fragments == [
        *st_partition(f"{before}<se>", NO_OVERLAP, parse_special=True),
        *([content] if content else []),
        *st_partition(f"<se>{after}", NO_OVERLAP, parse_special=True),
    ]


def test_text_around_a_span_joins_it_up_to_the_next_special_tokens() -> None:
    texts = SpecialTexts(TOKENS)
    prompt = "<s>u hi<se>there<s>you<s>a"
    assert texts.pieces(prompt, [(6, 10)]) == [
        Piece("<s>", True),
        Piece("u hi<se>there", False),
        Piece("<s>you<s>a", True),
    ]


def test_user_defined_tokens_are_cut_only_inside_spans() -> None:
    texts = SpecialTexts(TOKENS)
    assert texts.pieces("<se><a>x<a><a>y", [(8, 14)]) == [
        Piece("<se>", True),
        Piece("<a>x<", False),
        Piece("a><", False, continues=True),
        Piece("a>y", False, continues=True),
    ]


def test_tokens_strip_whitespace_next_to_spans() -> None:
    texts = SpecialTexts(TOKENS)
    assert texts.pieces("[x] \n <s> [x]", [(6, 9)]) == [Piece("[x]", True), Piece("<s>", False), Piece("[x]", True)]


def test_spans_may_exceed_the_text() -> None:
    texts = SpecialTexts(TOKENS)
    assert texts.pieces("a<s>b", [(1, 40), (50, 60)]) == [Piece("a<s>b", False)]


@given(TEXTS, TEXTS, TEXTS)
def test_no_special_token_is_read_inside_a_field(before: str, field: str, after: str) -> None:
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


def test_user_defined_tokens_are_allowed_in_a_field_unless_they_are_markup() -> None:
    texts = SpecialTexts([*CONTROL, SpecialToken("<sep>", user_defined=True), SpecialToken("<b>", user_defined=True)])
    assert texts.inside("<sep><b><s>", [(0, 11)], "{query}<sep>{document}") == [(0, 5), (8, 11)]
