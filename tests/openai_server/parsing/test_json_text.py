import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.core.events import CallArguments
from openai_server.parsing.json_text import JsonScanner, arguments, string, valid, value
from openai_server.parsing.reader import Output, Reader, StepParser, Steps
from tests.openai_server.parsing.answers import cuts

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def read(text: str, pieces: list[str] | None = None) -> tuple[str, str, bool]:
    """What was handed out for the value, what was left of the text, and whether the value was whole."""
    whole = False

    def steps(reader: Reader, out: Output) -> Steps[None]:
        nonlocal whole
        out.begin("f")
        whole = yield from value(reader, out.arguments)
        while True:
            left.append(reader.rest())
            yield

    left: list[str] = []
    parser = StepParser(steps)
    events = [event for piece in pieces or [text] for event in parser.push(piece)] + parser.end()
    return "".join(event.text for event in events if isinstance(event, CallArguments)), "".join(left), whole


@given(json_values, st.booleans(), st.data())
def test_valid_json_is_passed_on_as_it_is(given: object, ascii: bool, data: st.DataObject) -> None:
    text = json.dumps(given, ensure_ascii=ascii, indent=data.draw(st.sampled_from([None, 2])))
    cut = data.draw(st.integers(0, len(text)))
    assert read(text + "\n}", [text[:cut], text[cut:], "\n}"]) == (text, "\n}", True)
    assert valid(text) == text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"a\nb\t\x00"', "a\nb\t\x00"),
        (r'"\d+\.\w"', r"\d+\.\w"),
        (r'"\u00e9\uZ\u12"', "é\\uZ\\u12"),
        (r'"it\'s"', "it's"),
        ("'a \"b\" \\'c\\''", "a \"b\" 'c'"),
        (r"'\x41\xg'", "A\\xg"),
        ('"\\\n"', "\\\n"),
        ("True", True),
        ("[None, False,]", [None, False]),
        ("{'a': {\"b\": [1,], },\n}", {"a": {"b": [1]}}),
        ("[1 , 2\n,]", [1, 2]),
    ],
)
def test_what_models_get_wrong_is_put_right(written: str, meant: object) -> None:
    for pieces in cuts(written):
        handed_out, left, whole = read(written, list(pieces))
        assert whole
        assert left == ""
        assert json.loads(handed_out) == meant
    assert json.loads(valid(written) or "") == meant


@pytest.mark.parametrize(
    ("text", "handed_out", "left"),
    [
        ('{"a": ]', '{"a": ', "]"),
        ('{"a" 1}', '{"a" ', "1}"),
        ('{"a": 1 "b"}', '{"a": 1 ', '"b"}'),
        ("{a: 1}", "{", "a: 1}"),
        ("[1, , 2]", "[1, ", ", 2]"),
        ("[1}", "[1", "}"),
        ("[01]", "[01", "]"),
        ("[+1]", "[+1", "]"),
        ("[1.]", "[1.", "]"),
        ("[NaN]", "[NaN", "]"),
        ("[tru e]", "[tru", " e]"),
        ("[٣]", "[", "٣]"),
        ("<x>", "", "<x>"),
        (":", "", ":"),
        (",", "", ","),
        ("]", "", "]"),
    ],
)
def test_it_fails_at_what_is_wrong(text: str, handed_out: str, left: str) -> None:
    for pieces in cuts(text):
        assert read(text, list(pieces)) == (handed_out, left, False), pieces


@given(json_values)
def test_what_was_cut_off_is_all_handed_out(given: object) -> None:
    text = json.dumps(given, ensure_ascii=False)
    for end in range(len(text)):
        handed_out, left, whole = read(text[:end])
        assert handed_out + left == text[:end]
        # The beginning of a number is one.
        assert not whole or isinstance(given, int | float)


@given(st.text(alphabet="[]{}\",:\\ \nu1e-tf'", max_size=30))
def test_any_text_is_read_in_one_way_and_never_lost(text: str) -> None:
    reference = read(text)
    assert read(text, list(text)) == reference
    handed_out, left, whole = reference
    if whole:
        json.loads(handed_out)
    assert text.endswith(left)


def test_a_number_has_a_longest_length() -> None:
    scanner = JsonScanner()
    scanner.push("1" * 500, 0)
    assert scanner.failed


def test_deep_nesting_takes_no_stack() -> None:
    text = "[" * 100_000 + "]" * 100_000
    assert valid(text) == text


@pytest.mark.parametrize("text", ["", " ", "1 2", '"a', "{", "[1]]", "nul"])
def test_not_one_whole_value(text: str) -> None:
    assert valid(text) is None


@pytest.mark.parametrize(
    ("written", "handed_out"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("null", "{}"),
        ('"{\\"a\\": 1}"', '{"a": 1}'),
        ('"{\\"a\\": "', '"{\\"a\\": "'),
        ('"text"', '"text"'),
        ('"\\ud83d"', '"\\ud83d"'),
        ("[1]", "[1]"),
        ("", ""),
    ],
)
def test_arguments_are_an_object_where_they_can_be_one(written: str, handed_out: str) -> None:
    pieces: list[str] = []
    reader = Reader()
    reader.push(written)
    reader.end()
    assert list(arguments(reader, pieces.append)) == []
    assert "".join(pieces) == handed_out


@pytest.mark.parametrize(
    ("written", "meant"),
    [('"a\\n" ', "a\n"), ("'b'", "b"), ('""', ""), ("1", None), ('"a', None), ('"\\ud83d"', None), ("", None)],
)
def test_strings(written: str, meant: str | None) -> None:
    found = []

    def steps(reader: Reader, out: Output) -> Steps[None]:
        found.append((yield from string(reader)))

    parser = StepParser(steps)
    for character in written:
        parser.push(character)
    parser.end()
    assert found == [meant]
