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
    """Returns the emitted text of the value, the rest of the text, and whether the value is complete."""
    whole = False

    def steps(reader: Reader, out: Output) -> Steps[None]:
        nonlocal whole
        out.begin("f")
        whole = yield from value(reader, out.arguments)
        while True:
            rest.append(reader.rest())
            yield

    rest: list[str] = []
    parser = StepParser(steps)
    events = [event for piece in pieces or [text] for event in parser.push(piece)] + parser.end()
    return "".join(event.text for event in events if isinstance(event, CallArguments)), "".join(rest), whole


@given(json_values, st.booleans(), st.data())
def test_valid_json_is_emitted_unchanged(json_value: object, ascii: bool, data: st.DataObject) -> None:
    text = json.dumps(json_value, ensure_ascii=ascii, indent=data.draw(st.sampled_from([None, 2])))
    cut = data.draw(st.integers(0, len(text)))
    assert read(text + "\n}", [text[:cut], text[cut:], "\n}"]) == (text, "\n}", True)
    assert valid(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_common_errors_of_models_are_repaired(text: str, expected: object) -> None:
    for pieces in cuts(text):
        emitted, rest, whole = read(text, list(pieces))
        assert whole
        assert rest == ""
        assert json.loads(emitted) == expected
    assert json.loads(valid(text) or "") == expected


@pytest.mark.parametrize(
    ("text", "emitted", "rest"),
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
def test_parsing_stops_at_an_error(text: str, emitted: str, rest: str) -> None:
    for pieces in cuts(text):
        assert read(text, list(pieces)) == (emitted, rest, False), pieces


@given(json_values)
def test_all_text_of_an_incomplete_value_is_emitted(json_value: object) -> None:
    text = json.dumps(json_value, ensure_ascii=False)
    for end in range(len(text)):
        emitted, rest, whole = read(text[:end])
        assert emitted + rest == text[:end]
        # the beginning of a number is a number
        assert not whole or isinstance(json_value, int | float)


@given(st.text(alphabet="[]{}\",:\\ \nu1e-tf'", max_size=30))
def test_any_text_is_parsed_the_same_at_every_cut_and_never_lost(text: str) -> None:
    reference = read(text)
    assert read(text, list(text)) == reference
    emitted, rest, whole = reference
    if whole:
        json.loads(emitted)
    assert text.endswith(rest)


def test_the_length_of_a_number_is_limited() -> None:
    scanner = JsonScanner()
    scanner.push("1" * 500, 0)
    assert scanner.failed


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    text = "[" * 100_000 + "]" * 100_000
    assert valid(text) == text


@pytest.mark.parametrize("text", ["", " ", "1 2", '"a', "{", "[1]]", "nul"])
def test_a_text_that_is_not_one_complete_value_is_invalid(text: str) -> None:
    assert valid(text) is None


@pytest.mark.parametrize(
    ("text", "emitted"),
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
def test_arguments_are_converted_to_an_object_if_possible(text: str, emitted: str) -> None:
    pieces: list[str] = []
    reader = Reader()
    reader.push(text)
    reader.end()
    assert list(arguments(reader, pieces.append)) == []
    assert "".join(pieces) == emitted


@pytest.mark.parametrize(
    ("text", "expected"),
    [('"a\\n" ', "a\n"), ("'b'", "b"), ('""', ""), ("1", None), ('"a', None), ('"\\ud83d"', None), ("", None)],
)
def test_a_string_is_decoded(text: str, expected: str | None) -> None:
    decoded = []

    def steps(reader: Reader, out: Output) -> Steps[None]:
        decoded.append((yield from string(reader)))

    parser = StepParser(steps)
    for character in text:
        parser.push(character)
    parser.end()
    assert decoded == [expected]
