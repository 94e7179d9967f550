"""A rewritten grammar accepts a text in its place exactly if the client's grammar accepts the text."""

import json
import random
import string
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from openai_server.core.lark import literal
from openai_server.parsing.lark.characters import Refused
from openai_server.parsing.lark.nested import in_json_string, regex_up_to, up_to
from tests.examples import examples
from tests.openai_server.parsing.grammars import accepted, matcher

pytestmark = pytest.mark.slow

END, TAG = "\n</input>\n", "</input>"

APPLY_PATCH = """\
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
"""The grammar that Codex sends."""
PATCH = '*** Begin Patch\n*** Update File: a b.py\n@@ "x"\n-\t"\\\\n\x1b\x7f\n+é</div>\U0001f600\n \n*** End Patch\n'


def compiled(expression: str, before: str = "", after: str = "") -> str:
    """A grammar as llguidance's own form, with a nested one between two texts."""
    return str(LLMatcher.grammar_from_lark(f"start: {literal(before)} nested {literal(after)}\nnested: {expression}\n"))


def in_json(definition: str) -> str:
    return compiled(in_json_string(definition), '"', '"')


def before_tag(definition: str) -> str:
    return compiled(up_to(definition, END, TAG))


def original(definition: str) -> str:
    return str(LLMatcher.grammar_from_lark(definition))


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def random_text(grammar: str, rng: random.Random) -> str | None:
    """A text that the grammar accepts, of its bytes with the least repetition; None if the way got too long."""
    walk, data = matcher(grammar), bytearray()
    while len(data) < 400:
        mask = walk.compute_bitmask()
        allowed = [i for i in range(256) if mask[i // 8] >> (i % 8) & 1]
        if walk.is_accepting() and (not allowed or rng.random() < 0.3):
            return data.decode(errors="replace")
        if not allowed:
            return None  # nothing matches
        closing = [i for i in allowed if chr(i) in '"])}>;!\\n*\n']
        others = [i for i in allowed if 32 <= i < 127 or i == 10] or allowed
        data.append(rng.choice(closing if closing and rng.random() < 0.6 else others))
        assert walk.consume_token(data[-1])
    return None


def random_texts(grammar: str) -> list[str]:
    rng = random.Random(1)
    texts = [text for _ in range(30) if (text := random_text(grammar, rng)) is not None]
    assert texts
    return texts


def check(definition: str, text: str) -> bool:
    """Checks that both rewritten grammars agree with the client's; returns whether they accept."""
    expected = accepted(original(definition), text)
    assert accepted(in_json(definition), quoted(text)) == expected, (definition, text)
    assert accepted(before_tag(definition), text + END) == (expected and TAG not in text), (definition, text)
    return expected


# ---- Codex' grammar


def test_a_patch_is_accepted_in_both_places() -> None:
    assert check(APPLY_PATCH, PATCH)
    assert check(APPLY_PATCH, PATCH[:-1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*** Begin Patch\n*** End Patch",
        PATCH.replace("@@ ", "@@"),
        PATCH.replace("a b.py", ""),
        PATCH + "\n",
        PATCH.replace("*** Update", "** Update"),
        "Here you are:\n" + PATCH,
        PATCH[:-3],
    ],
)
def test_no_other_patch_is_accepted(text: str) -> None:
    assert not check(APPLY_PATCH, text)


def test_random_texts_of_the_rewritten_grammar_are_patches() -> None:
    for text in random_texts(in_json(APPLY_PATCH)):
        assert accepted(original(APPLY_PATCH), json.loads(text))


# ---- Random regular expressions

SPECIAL = '"\\\n\t\x08\x0c\r\x01\x1b\x7f/ab<Kk\u212a \u00e9\u4e2d\U0001f600-]^#'
CHARACTERS = st.sampled_from(SPECIAL)


def escape(character: str) -> str:
    return {"\n": r"\n", "\t": r"\t", "/": r"\/"}.get(character) or (
        "\\" + character if character in string.punctuation else character
    )


LITERALS = CHARACTERS.map(escape) | st.sampled_from(
    [r"\x22", r"\x{5c}", r"\u000a", r"\u{1b}", r"\U0001F600", r"\r", "a"]
)
CLASS_ESCAPES = st.sampled_from([r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\p{L}", r"\P{Lu}", r"\pC", r"\p{^Po}"])
RANGES = st.tuples(CHARACTERS, CHARACTERS).map(lambda ends: "-".join(escape(end) for end in sorted(ends)))
ITEMS = LITERALS | CLASS_ESCAPES | RANGES | st.sampled_from(["[:alpha:]", "[:^punct:]", "[:cntrl:]"])


def bracketed(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.sampled_from(["", "^"]), st.lists(items, min_size=1, max_size=3).map("".join)).map(
        lambda parts: f"[{''.join(parts)}]"
    )


SIMPLE_CLASSES = bracketed(ITEMS)
CLASSES = SIMPLE_CLASSES | st.tuples(SIMPLE_CLASSES, st.sampled_from(["&&", "--", "~~"]), SIMPLE_CLASSES).map(
    lambda parts: f"[{''.join(parts)}]"
)
ATOMS = LITERALS | CLASS_ESCAPES | CLASSES | st.just(".")
REGEXES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=2).map(lambda parts: f"(?:{'|'.join(parts)})")
        | st.tuples(st.sampled_from(["(", "(?:", "(?i:", "(?s:", "(?s-i:", "(?P<n>", "(?x: "]), inner).map(
            lambda parts: f"{''.join(parts)})"
        )
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"])).map(
            lambda parts: f"(?:{parts[0]}){parts[1]}"
        )
    ),
    max_leaves=6,
)
TEXTS = st.text(CHARACTERS, max_size=5)


@settings(max_examples=examples(400))
@given(REGEXES, st.sampled_from(["", "i", "s", "is", "x"]), st.lists(TEXTS, min_size=1, max_size=5), st.integers(0, 99))
def test_an_expression_matches_the_same_texts_in_json(regex: str, flags: str, texts: list[str], seed: int) -> None:
    definition = f"start: T\nT: /{regex}/{flags}\n"
    if LLMatcher.validate_grammar(original(definition)):
        return  # nothing matches it, or a space in an expression with `x`
    for text in texts:
        assert accepted(in_json(definition), quoted(text)) == accepted(original(definition), text), text


@given(REGEXES, st.integers(0, 99))
def test_texts_of_an_expression_are_accepted_in_both_places(regex: str, seed: int) -> None:
    definition = f"start: T\nT: /{regex}/\n"
    if LLMatcher.validate_grammar(original(definition)):
        return
    rng = random.Random(seed)
    if (text := random_text(original(definition), rng)) is not None:
        assert accepted(in_json(definition), quoted(text)), text
    if (text := random_text(in_json(definition), rng)) is not None:
        assert accepted(original(definition), json.loads(text)), text


# ---- Grammars with several rules

GRAMMARS = [
    'start: "a" | "b"i "\\"" | /c+/ "\\n"',
    'start: A B?\nA: "x".."z"\nB: /[\\n"]/ | A~2..3',
    'start: item ("," item)*\nitem: /[a-z"]+/ | "\\\\"',
    "start: LINE+\nLINE: /[^\\n]*/ NL\nNL: /\\r?\\n/",
    'start: T\nT: /[^x]{1,4}/ & ~(/(?s:.)*/ "ab" /(?s:.)*/)',
    "start: word+\nword: /[a-z]+/\n%ignore /[ \\n]+/",
    'start: [A] b{1,2}\nA: "\\u0022\\x0a"\nb: "b" | "" -> empty',
    '?start: x "!"\nx[lazy]: /(?s:.)*;/',
    'start: x "!"\nx[suffix="\\n"]: /.*/\n// a comment\n',
    "%llguidance {}\n%import common (INT, WS_INLINE)\n%import common.NEWLINE -> NL\nstart: INT WS_INLINE NL",
    APPLY_PATCH,
]


@pytest.mark.parametrize("definition", GRAMMARS)
def test_texts_of_a_grammar_are_accepted_in_both_places(definition: str) -> None:
    for text in random_texts(original(definition)):
        assert accepted(in_json(definition), quoted(text)), text
        assert accepted(before_tag(definition), text + END), text


@pytest.mark.parametrize("definition", GRAMMARS)
@settings(max_examples=examples(50))
@given(text=st.text(st.sampled_from('"\\\n\r;!,abxz 1B'), max_size=6))
def test_no_other_text_of_a_grammar_is_accepted(definition: str, text: str) -> None:
    in_place = accepted(before_tag(definition), text + END)
    assert accepted(in_json(definition), quoted(text)) == in_place
    assert in_place or not accepted(original(definition), text)


# ---- Recursive grammars

RECURSIVE = [
    'start: expr\nexpr: INT | "(" expr "+" expr ")"\n%import common.INT\n',
    'start: value\nvalue: STRING | "[" value ("," value)* "]"\nSTRING: /"[^"\\\\]*"/\n%ignore WS\n%import common.WS\n',
    'start: list\nlist: "(" (ATOM | list)* ")"\nATOM: /[a-z\\n]+/ | "\\t"\n%ignore / /\n',
    'start: b\nb: "{\\n" (LINE NL | b)* "}\\n"\nLINE: /[ -|~]+/\nNL: "\\n"\n',
    'start: q\nq: "<" /.*/ q? "\\n"\n',
]


@pytest.mark.parametrize("definition", [RECURSIVE[i] for i in (0, 1, 3, 4)])
def test_texts_of_a_recursive_grammar_are_accepted_in_both_places(definition: str) -> None:
    for text in random_texts(original(definition)):
        assert accepted(in_json(definition), quoted(text)), text
        assert accepted(before_tag(definition), text + END), text
    for text in random_texts(in_json(definition)):
        text = json.loads(text)
        # llguidance ignores nothing after the last terminal; a nested grammar may.
        assert accepted(original(definition), text.rstrip() if "%ignore" in definition else text), text


def test_a_recursive_grammar_with_a_terminal_of_unclear_end_is_refused_in_json() -> None:
    with pytest.raises(Refused, match="line 3"):
        in_json_string(RECURSIVE[2])
    assert accepted(before_tag(RECURSIVE[2]), "(a\n(b) \t)" + END)


# ---- The place


def test_a_text_before_a_tag_never_contains_the_tag() -> None:
    for definition in ("start: /(?s:.)*/", 'start: "x" | /[^;]*/ "\\n"?'):
        grammar = before_tag(definition)
        assert accepted(grammar, "a<b></b>\n" + END)
        assert not accepted(grammar, f"a{TAG}b" + END)
    grammar = compiled(regex_up_to("a.*|/", END, TAG))
    assert accepted(grammar, "abc" + END)
    assert accepted(grammar, "/" + END)
    assert not accepted(grammar, f"a{TAG}" + END)
    assert not accepted(grammar, "b" + END)


@pytest.mark.parametrize("regex", ["a/b", r"a\/b", r"a\\/b", "[/]", r"\\"])
def test_slashes_in_an_expression_are_kept(regex: str) -> None:
    grammar = compiled(regex_up_to(regex, END, TAG))
    text = {"a/b": "a/b", r"a\/b": "a/b", r"a\\/b": "a\\/b", "[/]": "/", r"\\": "\\"}[regex]
    assert accepted(grammar, text + END)


# ---- What is refused

RECURSIVE_RULE = 'start: r T\nr: "(" r ")" | "x"\n'
REFUSED = [
    ("start: <|eos|>", "line 1: '<|eos|>'"),
    ('start: "a"\nx: @other', "line 2: '@other'"),
    ("start: %json {}", "line 1: '%json'"),
    ("start: %lark {\n}", "line 1: '%lark'"),
    ('%llguidance {"no_forcing": true}\nstart: "a"', "'no_forcing'|%llguidance"),
    ('start: X\nX.2: "a"', r"line 2: '\.'"),
    ('start: x{y}\nx: "a"', "line 1: '{'"),
    ('start: x\nx[max_tokens=3]: "a"', "line 2: 'max_tokens'"),
    ("start: x", "no rule 'x'"),
    ('y: "a"', "no rule 'start'"),
    ("start: /a/l", "flag 'l'"),
    (r"start: /\ba/", r"'\\b'"),
    ("start: /(?=a)/", r"\(\?=a"),
    ("start: /(?-u:a)/", "flag 'u'"),
    ("start: /[a/", "is not part of a grammar|unclosed class"),
    (r"start: /\p{Script=Zyyy}/", "property"),
    ("start: ~/a/", "'~'"),
    ("start: T\nT: ~", "without a value"),
    ('start: "b".."a"', "range"),
    ('start: T\nT: U\nU: T "a"', "refers to itself"),
    ('start: T\nT: u\nu: "a"', "the rule 'u' in a terminal"),
    ('start: ("a"', r"'\)' is missing"),
    ('start: "a")', r"line 1: '\)'"),
    ("start", "ends within a rule"),
    ("start: 'a'", "is not part of a grammar"),
    ('start: "\\ud800"', "the string"),
    ('start: "a"\nstart: "b"', "line 2: 'start' is defined twice"),
    ("%import python.INT\nstart: INT", "line 1: 'python'"),
    ("%import common.NOTHING\nstart: NOTHING", "line 1: 'NOTHING'"),
    ("%declare X\nstart: X", "line 1: '%declare'"),
    ("\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(300)), 'r300: "a"']), "nests too deeply"),
    (f"start: /{'[' * 60}a{']' * 60}/", "deeply nested"),
    (f"start: /{'.' * 10_000}/", "more than 262144 characters"),
    (f"start: {'/./ ' * 10_000}", "more than 262144 characters"),
    (f"start: {'a ' * 20_001}", "more than 20000 literals"),
    (f"start: A\nA: {'~(' * 9}/a/{')' * 9}", "line 2: more than 8 nested '~'"),
    (f"start: T\nT: {'(' * 300}'a'{')' * 300}".replace("'", '"'), "nests too deeply"),
    # Beside a recursive rule.
    (RECURSIVE_RULE + 'T: U\nU: T "a"', "refers to itself"),
    (RECURSIVE_RULE + 'T: "a"\n%ignore W\nW: W " "', "refers to itself"),
    ("\n".join([RECURSIVE_RULE + "T: T0", *(f"T{i}: T{i + 1}" for i in range(300)), 'T300: "a"']), "nests too deeply"),
    (RECURSIVE_RULE + 'T: r "a"', "the rule 'r' in a terminal"),
]


@pytest.mark.parametrize(("definition", "problem"), REFUSED)
def test_what_is_not_text_is_refused_with_its_line(definition: str, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        in_json_string(definition)


def test_terminals_that_refer_to_others_often_take_no_time() -> None:
    lines = [f"T{i}: T{i + 1} T{i + 1}" for i in range(100)]
    definition = "\n".join(['start: "a" start | T0', *lines, 'T100: "b"'])
    assert "T100" in in_json_string(definition)  # without a memory, it would take 2¹⁰⁰ steps


@pytest.mark.parametrize("definition", [item[0] for item in REFUSED if item[0].startswith(RECURSIVE_RULE)])
def test_a_wrong_terminal_is_refused_as_raw_text_too(definition: str) -> None:
    with pytest.raises(Refused):
        up_to(definition, END, TAG)


def test_a_recursive_grammar_may_have_many_rules() -> None:
    rules = "".join(f'r{i}: "a" r{i + 1} | "b"\n' for i in range(400))
    assert "%lark" in in_json_string(f'start: r0\n{rules}r400: "(" r0 ")"')


@given(st.text(st.sampled_from('start:AB "/\\|()[]{}<>~&+*?.-=@%\n#a1'), max_size=60))
def test_no_definition_raises_anything_else(definition: str) -> None:
    for rewrite in (in_json_string, partial(up_to, end=END, tag=TAG)):
        with suppress(Refused):
            rewrite(definition)
