from openai_server.tokenizing.chunks import AddedToken, AddedTokens, Chunk

TOKENS = AddedTokens(
    [
        AddedToken("<a>"),
        AddedToken("<a>b"),
        AddedToken("<t>", is_control=False),
        AddedToken("<l>", strips_left=True),
        AddedToken("<r>", strips_right=True),
        AddedToken("word", is_control=False, is_word=True),
        AddedToken("  ", is_control=False),
    ]
)


def chunks(text: str, *spans: tuple[int, int], parse_special: bool = True) -> list[str]:
    """The chunks' texts; plain ones are in brackets."""
    found = TOKENS.chunks(text, spans, parse_special=parse_special)
    assert "".join(chunk.text for chunk in found) == text
    return [f"[{chunk.text}]" if chunk.is_plain else chunk.text for chunk in found]


def test_a_text_without_spans_is_one_chunk() -> None:
    assert TOKENS.chunks("x<a>y", ()) == [Chunk("x<a>y", False)]
    assert TOKENS.chunks("", ()) == []


def test_the_text_between_two_tokens_is_plain_if_it_has_a_span() -> None:
    assert chunks("x<a>y", (0, 1)) == ["[x]", "<a>y"]
    assert chunks("x<a>y", (4, 5)) == ["x<a>", "[y]"]
    assert chunks("x<a>y<t>z", (4, 5)) == ["x<a>", "[y]", "<t>z"]
    assert chunks("x<a><a>y", (7, 8)) == ["x<a><a>", "[y]"]


def test_a_token_that_touches_a_span_is_text() -> None:
    for span in ((1, 4), (1, 2), (3, 4), (2, 3), (0, 5)):
        assert chunks("x<a>y<a>z", span) == ["[x<a>y]", "<a>z"]
    assert chunks("<a><a><a>", (3, 6)) == ["<a>", "[<a>]", "<a>"]
    assert chunks("<a>b", (3, 4)) == ["[<a>b]"]


def test_spans_are_in_bytes() -> None:
    assert chunks("é<a>世<a>", (9, 11)) == ["é<a>", "[世<a>]"]
    assert chunks("é<a>世<a>", (0, 2), (8, 9)) == ["[é]", "<a>", "[世<a>]"]


def test_whitespace_belongs_to_the_token_that_strips_it() -> None:
    assert chunks("x  <l>  y", (0, 1)) == ["[x]", "  <l>  y"]
    assert chunks("x  <r>  y", (8, 9)) == ["x  <r>  ", "[y]"]


def test_a_word_is_recognized_alone() -> None:
    assert chunks("x word y", (0, 1), (7, 8)) == ["[x ]", "word", "[ y]"]
    assert chunks("sword word", (0, 1)) == ["[sword ]", "word"]
    assert chunks("words", (0, 1)) == ["[words]"]


def test_control_tokens_can_be_turned_off() -> None:
    assert chunks("x<a>y<t>z", parse_special=False) == ["[x<a>y]", "<t>", "[z]"]
    assert chunks("<t>", parse_special=False) == ["<t>"]
    assert chunks("<t><t>", (0, 1), parse_special=False) == ["[<t>]", "<t>"]


def test_tokens_are_listed_without_whitespace() -> None:
    assert TOKENS.control == ["<a>", "<a>b", "<l>", "<r>"]
    assert TOKENS.user_defined == ["<t>", "word"]
