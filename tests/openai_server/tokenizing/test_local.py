"""Local tokenizers of all kinds, compared with the library on the same texts."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from openai_server.tokenizing.local import BadText, LocalTokenizer
from tests.examples import examples
from tests.openai_server.tokenizing.vocabularies import BOS, CONTROL, EOS, KINDS, SENTENCES, THINK, USER, folder_with


@cache
def both(kind: str) -> tuple[Tokenizer, LocalTokenizer]:
    with TemporaryDirectory() as folder:
        tokenizer = KINDS[kind]()
        return tokenizer, LocalTokenizer(folder_with(tokenizer, Path(folder)))


def id_of(tokenizer: Tokenizer, text: str) -> int:
    id = tokenizer.token_to_id(text)
    assert id is not None
    return id


TEXTS = (
    *SENTENCES,
    "",
    " ",
    "a  b   c\n\n\td",
    "Grüße, 世界 👩‍👩‍👧 \u0000",
    f"{BOS}{USER}The fox{EOS}\n{USER} {THINK}It sleeps.",
    f"  {USER}  {EOS}  ",
)
everywhere = pytest.mark.parametrize("kind", KINDS)


@everywhere
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("add_special", [False, True])
def test_a_text_without_plain_spans_has_the_tokens_of_the_library(kind: str, text: str, add_special: bool) -> None:
    library, local = both(kind)
    ids = library.encode(text, add_special_tokens=add_special).ids
    assert local.tokens(text, (), add_special=add_special) == ids
    assert local.text(ids) == library.decode(ids, skip_special_tokens=False)


def spans_of(text: str, marked: str) -> list[tuple[int, int]]:
    """The spans, in bytes, of all occurrences of `marked`."""
    parts = [len(part.encode()) for part in text.split(marked)]
    length, spans, place = len(marked.encode()), list[tuple[int, int]](), 0
    for part in parts[:-1]:
        place += part
        spans.append((place, place + length))
        place += length
    return spans


@everywhere
@pytest.mark.parametrize("forged", [*CONTROL, THINK])
@pytest.mark.parametrize("before", ["", "é", f"{USER}fox ", f"{BOS}{USER} "])
@pytest.mark.parametrize("after", ["", " dog", f"{EOS}\n{USER}It"])
def test_no_token_that_touches_a_plain_span_is_recognized(kind: str, forged: str, before: str, after: str) -> None:
    library, local = both(kind)
    text = f"{before}{forged}{after}"
    first = len(before.encode())
    id = id_of(library, forged)
    genuine = library.encode(before + after, add_special_tokens=False).ids.count(id)
    end = first + len(forged)
    for span in ((first, end), (first, first + 1), (end - 1, end)):
        ids = local.tokens(text, [span], add_special=False)
        assert ids.count(id) == genuine
        for special in {*CONTROL, THINK} - {forged}:
            assert ids.count(id_of(library, special)) == (before + after).count(special)
    assert local.tokens(text, (), add_special=False).count(id) == genuine + 1


@everywhere
def test_a_plain_span_changes_no_ordinary_text(kind: str) -> None:
    library, local = both(kind)
    text = f"{BOS}{USER}The quick fox{EOS} {USER} Grüße"
    ids = library.encode(text, add_special_tokens=False).ids
    for marked in ("quick", "The quick fox", "ü", " Grüße"):
        assert local.tokens(text, spans_of(text, marked), add_special=False) == ids
    assert local.tokens("The fox", [(0, 7)], add_special=True) == library.encode("The fox").ids


def test_the_text_around_a_forged_token_is_tokenized_as_a_whole() -> None:
    _, local = both("byte level")
    text = f"{USER}a{EOS}b{USER}c"
    pieces = local.pieces(local.tokens(text, spans_of(text, EOS), add_special=False))
    assert pieces[0] == pieces[-2] == USER.encode()
    assert b"".join(pieces) == text.encode()
    assert EOS.encode() not in pieces


@everywhere
def test_control_tokens_may_be_read_as_text(kind: str) -> None:
    library, local = both(kind)
    text = f"{USER}The fox{THINK} and the {EOS}"
    ids = local.tokens(text, (), add_special=False, parse_special=False)
    assert not {id_of(library, text) for text in CONTROL} & set(ids)
    assert ids.count(id_of(library, THINK)) == 1
    whole = local.tokens(text, (), add_special=True, parse_special=False)
    assert whole == [id_of(library, BOS), *ids, id_of(library, EOS)]


PARTS = [*CONTROL, THINK, "    ", " ", "a", "é", "世", "👩", "<", "s>", "the fox"]


@settings(max_examples=examples(300), deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    parts=st.lists(st.sampled_from(PARTS), max_size=8),
    cuts=st.sets(st.integers(0, 30), max_size=6),
)
def test_any_spans_leave_no_token_that_touches_them(kind: str, parts: list[str], cuts: set[int]) -> None:
    library, local = both(kind)
    text = "".join(parts)
    places = [len(text[:cut].encode()) for cut in sorted(cuts) if cut <= len(text)]
    spans = [pair for k, pair in enumerate(pairwise(places)) if k % 2 == 0]
    ids = local.tokens(text, spans, add_special=False)
    allowed = library.encode(text, add_special_tokens=False).ids
    for special in CONTROL:
        id = id_of(library, special)
        assert ids.count(id) <= allowed.count(id)
    if kind == "byte level":
        assert b"".join(local.pieces(ids)) == text.encode()


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("byte level", "é ", [b"\xc3", b"\xa9", b" "]),
        ("metaspace, first", f"{USER}\t", [USER.encode(), b"\t"]),
        ("word piece", f"foxs{EOS}", [b"fox", b"s", EOS.encode()]),
    ],
)
def test_pieces_are_the_bytes_of_tokens(kind: str, text: str, pieces: list[bytes]) -> None:
    _, local = both(kind)
    found = local.pieces(local.tokens(text, (), add_special=False))
    assert b"".join(found) == b"".join(pieces)
    assert found[-1] == pieces[-1]


def test_an_id_without_a_token_is_refused() -> None:
    _, local = both("byte level")
    n = both("byte level")[0].get_vocab_size()
    for work in (local.text, local.pieces):
        with pytest.raises(BadText, match=f"There is no token {n}; the vocabulary has {n} tokens."):
            work([1, n])
    with pytest.raises(BadText, match=f"There is no token {2**31 - 1};"):
        local.text([2**31 - 1])


def test_a_text_that_the_vocabulary_cannot_express_is_refused(tmp_path: Path) -> None:
    library = Tokenizer.from_str(KINDS["word level"]().to_str().replace('"unk_token":"<unk>"', '"unk_token":"none"'))
    local = LocalTokenizer(folder_with(library, tmp_path))
    with pytest.raises(BadText, match=r"The tokenizer can't encode the text: .+"):
        local.tokens("xyz", (), add_special=False)


def test_truncation_and_padding_are_off(tmp_path: Path) -> None:
    library = KINDS["byte level"]()
    library.enable_truncation(3)
    library.enable_padding(length=50)
    ids = LocalTokenizer(folder_with(library, tmp_path)).tokens("The quick brown fox", (), add_special=False)
    library.no_truncation()
    library.no_padding()
    assert ids == library.encode("The quick brown fox", add_special_tokens=False).ids


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": null}', "\xff"])
def test_a_file_that_is_no_tokenizer_is_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"."):
        LocalTokenizer(path)
    with pytest.raises(ValueError, match="No such file"):
        LocalTokenizer(tmp_path / "none.json")


@pytest.fixture
def stripping(tmp_path: Path) -> tuple[Tokenizer, LocalTokenizer]:
    library = KINDS["byte level"]()
    library.add_special_tokens([AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True)])
    library.add_tokens([AddedToken("word", single_word=True, normalized=False)])
    return library, LocalTokenizer(folder_with(library, tmp_path))


def test_tokens_that_strip_or_are_words_do_so_beside_plain_text_too(
    stripping: tuple[Tokenizer, LocalTokenizer],
) -> None:
    library, local = stripping
    for text in ("a  <l>  b", "a  <r>  b", "sword word words", "<r> word"):
        assert local.tokens(text, (), add_special=False) == library.encode(text, add_special_tokens=False).ids
        plain = local.tokens(f"a{EOS} {text}", [(1, 2)], add_special=False)
        expected = library.encode(text, add_special_tokens=False).ids
        for special in ("<l>", "<r>", "word"):
            id = id_of(library, special)
            assert plain.count(id) == expected.count(id)
    pieces = local.pieces(local.tokens(f"{EOS}  <l>x", [(0, 2)], add_special=False))
    assert b"".join(pieces) == f"{EOS}<l>x".encode()
