"""Guides with real llguidance on a vocabulary of bytes: allowed tokens, rejected sources, and limits of time."""

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from anyserve_worker.core.errors import Draining, InvalidRequest, TrialOverrun
from anyserve_worker.core.guide import Guide
from anyserve_worker.guides import matcher as guide
from anyserve_worker.guides.matcher import MAX_SOURCE, SECONDS_PER_TOKEN, SPARE_SECONDS, Matcher, VocabularyGuides
from protos import contract
from protos.contract import TensorSpec

JSON_SCHEMA, REGEX, GRAMMAR, LARK = contract.JSON_SCHEMA, contract.REGEX, contract.GRAMMAR, contract.LARK
END, CALL, TOOL = 256, 257, 258
VOCABULARY = [bytes([byte]) for byte in range(256)] + [b"</s>", b"<|call|>", b"[TOOL]", b"abc"]
SECONDS = 0.5
"""Processor seconds of each trial."""
ABC = len(VOCABULARY) - 1
"""Token id of `abc`, a token of several characters."""


def build(end_tokens: list[int]) -> VocabularyGuides:
    return VocabularyGuides(
        VOCABULARY, lambda token: END <= token <= TOOL, end_tokens, lambda text: list(text.encode())
    )


@pytest.fixture(scope="module")
def guides() -> Iterator[VocabularyGuides]:
    guides = build([END])
    yield guides
    guides.close()


def compiled(guides: VocabularyGuides, guide: Guide) -> Matcher:
    return guides.compile(guide, guides.try_guide(guide, SECONDS))


def allowed(matcher: Matcher) -> set[int]:
    logits = np.zeros(len(VOCABULARY), dtype=np.float32)
    matcher.mask(logits)
    assert set(np.unique(logits)) <= {0.0, -np.inf}
    return set(np.flatnonzero(logits == 0).tolist())


def letters(text: str) -> set[int]:
    return set(text.encode())


def accept(matcher: Matcher, text: str) -> None:
    for token in text.encode():
        assert token in allowed(matcher)
        matcher.accept(token)


def refusal(guides: VocabularyGuides, tensor: TensorSpec, source: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        compiled(guides, Guide(tensor, source))
    assert caught.value.tensor == tensor.name
    assert str(caught.value).startswith(f"tensor '{tensor.name}': ")
    return str(caught.value)


# ---- Allowed tokens


def test_a_mask_keeps_the_logits_of_allowed_tokens(guides: VocabularyGuides) -> None:
    matcher = compiled(guides, Guide(REGEX, "[ab]{2}"))
    logits = np.arange(len(VOCABULARY), dtype=np.float32)
    matcher.mask(logits)
    assert {i: float(x) for i, x in enumerate(logits) if x != -np.inf} == {i: float(i) for i in letters("ab")}


@pytest.mark.parametrize(
    ("tensor", "source"),
    [
        (REGEX, "(yes|no)!"),
        (GRAMMAR, 'root ::= ("yes" | "no") "!"'),
        (LARK, 'start: ("yes" | "no") "!"'),
    ],
)
def test_every_language_of_guides_restricts_tokens(guides: VocabularyGuides, tensor: TensorSpec, source: str) -> None:
    matcher = compiled(guides, Guide(tensor, source))
    assert allowed(matcher) == letters("yn")
    accept(matcher, "no")
    assert allowed(matcher) == letters("!")
    assert not matcher.ended
    accept(matcher, "!")
    assert matcher.ended


def test_tokens_are_tried_without_advancing(guides: VocabularyGuides) -> None:
    matcher = compiled(guides, Guide(LARK, "start: /[a-z]*/ <|call|> /[xyz]/"))
    accept(matcher, "a")
    for tokens, accepted in (
        ([CALL], True),
        ([CALL, ord("x")], True),
        ([ABC, ord("z"), CALL], True),
        ([], True),
        ([ord("1")], False),
        ([CALL, ord("a")], False),
        ([CALL, ord("x"), ord("x")], False),
        (list(b"<|call|>"), False),
    ):
        assert matcher.accepts(tokens) == accepted
    assert allowed(matcher) == {*range(ord("a"), ord("z") + 1), CALL, ABC}
    matcher.accept(CALL)
    assert matcher.accepts([ord("y")])


def test_a_schema_allows_json_with_single_spaces(guides: VocabularyGuides) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"const": "é"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    matcher = compiled(guides, Guide(JSON_SCHEMA, json.dumps(schema)))
    accept(matcher, '{"a": true, "b": "é"}')
    assert matcher.ended


def test_a_token_of_several_characters_is_allowed_if_all_of_them_match(guides: VocabularyGuides) -> None:
    assert allowed(compiled(guides, Guide(REGEX, "[ax][by][cz]"))) == letters("ax") | {ABC}
    assert allowed(compiled(guides, Guide(REGEX, "[ax][by][yz]"))) == letters("ax")


def test_the_end_token_is_allowed_once_the_text_is_complete(guides: VocabularyGuides) -> None:
    matcher = compiled(guides, Guide(REGEX, "a+"))
    assert allowed(matcher) == letters("a")
    accept(matcher, "a")
    assert allowed(matcher) == {ord("a"), END}
    assert not matcher.ended
    matcher.accept(END)
    assert matcher.ended


def test_an_empty_regex_allows_only_the_end_token(guides: VocabularyGuides) -> None:
    matcher = compiled(guides, Guide(REGEX, ""))
    assert allowed(matcher) == {END}
    matcher.accept(END)
    assert matcher.ended


def test_every_end_token_is_allowed_at_the_end() -> None:
    guides = build([END, CALL])
    try:
        assert allowed(compiled(guides, Guide(REGEX, "a?"))) == {ord("a"), END, CALL}
    finally:
        guides.close()


def test_control_tokens_match_by_name_and_not_as_text(guides: VocabularyGuides) -> None:
    matcher = compiled(guides, Guide(LARK, 'start: <|call|> <|[TOOL]|> "x"'))
    assert allowed(matcher) == {CALL}
    matcher.accept(CALL)
    assert allowed(matcher) == {TOOL}
    matcher.accept(TOOL)
    assert allowed(matcher) == letters("x")
    # a regex matches characters only
    assert allowed(compiled(guides, Guide(REGEX, r"<\|call\|>|\[TOOL\]"))) == letters("<[")


def test_copies_of_a_matcher_are_independent(guides: VocabularyGuides) -> None:
    original = compiled(guides, Guide(REGEX, "ab|cd"))
    first, second = original.copy(), original.copy()
    accept(first, "ab")
    accept(second, "c")
    assert allowed(original) == letters("ac")
    assert allowed(second) == letters("d")
    assert (original.ended, first.ended, second.ended) == (False, True, False)
    third = second.copy()
    accept(third, "d")
    assert allowed(second) == letters("d")


def test_accepting_a_token_that_is_not_allowed_raises(guides: VocabularyGuides) -> None:
    with pytest.raises(InvalidRequest, match="be continued"):
        compiled(guides, Guide(REGEX, "abc")).accept(ord("x"))


# ---- Rejected guides


@pytest.mark.parametrize(
    ("tensor", "source", "problem"),
    [
        (REGEX, "(", "regex"),
        (REGEX, "(?=a)b", "look"),
        (REGEX, r"(a)\1", "backreference"),
        (REGEX, r"[^\s\S]", "nothing matches it"),
        (JSON_SCHEMA, "", "EOF"),
        (JSON_SCHEMA, "{", "EOF"),
        (JSON_SCHEMA, "[]", "object"),
        (JSON_SCHEMA, '{"type": "no such type"}', "no such type"),
        (JSON_SCHEMA, '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        (JSON_SCHEMA, '{"$ref": "http://127.0.0.1:1/x"}', "outside the schema"),
        (JSON_SCHEMA, '{"$ref": "file:///dev/zero"}', "outside the schema"),
        (JSON_SCHEMA, '{"$ref": "#"}', "nothing matches it"),
        (JSON_SCHEMA, '{"a":' * 10_000, "nested levels"),
        (GRAMMAR, "", "root"),
        (GRAMMAR, 'rule ::= "a"', "root"),
        (GRAMMAR, "root ::= missing", "missing"),
        (GRAMMAR, 'root ::= "a', "end of input"),
        (GRAMMAR, "root ::= " + "(" * 20_000, "too deeply"),
        (LARK, "", "mpty"),
        (LARK, "start: missing", "missing"),
        (LARK, "start: <no_such_token>", "no_such_token"),
        (LARK, "start: <[999999]>", "too large"),
        (LARK, "start: " + "(" * 30_000, "too deeply"),
    ],
)
def test_an_invalid_guide_is_rejected_with_the_reason(
    guides: VocabularyGuides, tensor: TensorSpec, source: str, problem: str
) -> None:
    assert problem in refusal(guides, tensor, source)


def test_an_error_in_a_nested_grammar_has_the_line_of_its_author(guides: VocabularyGuides) -> None:
    """Another grammar is around it: the author never wrote its lines."""
    grammar = 'start: "a" r0\n// part: guide\nr0: %lark {\nstart: x\n\nx: missing\n}\nr1: "b"\n'
    with pytest.raises(InvalidRequest) as caught:
        compiled(guides, Guide(LARK, grammar))
    assert caught.value.part == "guide"
    assert "line 3: " in str(caught.value)
    assert "line 3: " in refusal(guides, LARK, "start: x\n\nx: missing\n")


# ---- Lenient schemas: keywords that can't be enforced are ignored

A_OR_1: dict[str, Any] = {"type": "array", "items": {"enum": ["a", 1]}}
OBJECT: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"const": 1}},
    "additionalProperties": False,
}
UNENFORCEABLE: dict[str, tuple[dict[str, Any], str]] = {
    "uniqueItems": (A_OR_1 | {"uniqueItems": True}, '["a", "a", 1]'),
    "contains": (A_OR_1 | {"contains": {"const": 1}, "minContains": 2, "maxContains": 3}, '["a"]'),
    "unevaluatedItems": (A_OR_1 | {"unevaluatedItems": False}, '["a"]'),
    "not": (OBJECT | {"not": {"required": ["a"]}}, '{"a": 1}'),
    "propertyNames": (OBJECT | {"propertyNames": {"const": "b"}}, '{"a": 1}'),
    "dependentRequired": (OBJECT | {"dependentRequired": {"a": ["b"]}}, '{"a": 1}'),
    "dependentSchemas": (OBJECT | {"dependentSchemas": {"a": {"required": ["b"]}}}, '{"a": 1}'),
    "dependencies": (OBJECT | {"dependencies": {"a": ["b"]}}, '{"a": 1}'),
    "if": (OBJECT | {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["a"]}}, "{}"),
    "unevaluatedProperties": (OBJECT | {"unevaluatedProperties": False}, '{"a": 1}'),
    "maxProperties": ({"type": "object", "properties": {"a": {}}, "maxProperties": 2}, '{"a": 1}'),
    "format": ({"type": "string", "format": "iri"}, '"no iri"'),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "1"),
    "look-ahead": ({"type": "string", "pattern": "^(?!a)"}, '"a"'),
    "look-behind": ({"items": {"type": "string", "pattern": "(?<!a)$"}}, '["a"]'),
    "a word boundary": (OBJECT | {"properties": {"a": {"type": "string", "pattern": r"\bx\b"}}}, '{"a": "y"}'),
    "a backreference": ({"anyOf": [{"type": "string", "pattern": r"^(a)\1$"}]}, '"a"'),
    "$schema": ({"$schema": "https://json-schema.org/draft-07/schema#", "type": "integer"}, "1"),
    "a maximum": ({"type": "number", "minimum": -1.7e308, "maximum": 1.7e308}, "-1.5"),
    "a multiple": ({"type": "integer", "multipleOf": 1 << 40}, "3"),
    "names that overlap": ({"type": "object", "patternProperties": {"^a": {"const": 1}, "b$": {}}}, '{"ab": 2}'),
    "names of look-ahead": (
        {"type": "object", "patternProperties": {"^(?!b)": {"const": 1}}, "additionalProperties": False},
        '{"b": 1}',
    ),
}
"""Schemas by the keyword that can't be enforced, each with a text that the lenient schema allows."""


def accept_whole(
    guides: VocabularyGuides, tensor: TensorSpec, source: str, text: str, *, lenient: bool = False
) -> None:
    accept(compiled(guides, Guide(tensor, source, lenient)), text)


@pytest.mark.parametrize("name", UNENFORCEABLE)
def test_a_lenient_schema_ignores_keywords_that_cannot_be_enforced(guides: VocabularyGuides, name: str) -> None:
    schema, text = UNENFORCEABLE[name]
    source = json.dumps(schema)
    accept_whole(guides, JSON_SCHEMA, source, text, lenient=True)
    with pytest.raises(InvalidRequest):
        compiled(guides, Guide(JSON_SCHEMA, source))
    # the same schema inside a grammar, as for the arguments of a call
    lark = "start: r0\nr0: %json " + json.dumps(schema | {"x-guidance": {"lenient": True}})
    accept(compiled(guides, Guide(LARK, lark)), text.replace(", ", ",").replace(": ", ":"))
    with pytest.raises(InvalidRequest):
        compiled(guides, Guide(LARK, lark.replace("true}}", "false}}")))


@pytest.mark.parametrize("name", UNENFORCEABLE)
def test_the_rest_of_a_lenient_schema_is_enforced(guides: VocabularyGuides, name: str) -> None:
    schema, _ = UNENFORCEABLE[name]
    both = {"type": "object", "properties": {"x": schema, "y": {"type": "integer"}}, "required": ["y"]}
    matcher = compiled(guides, Guide(JSON_SCHEMA, json.dumps(both | {"additionalProperties": False}), lenient=True))
    accept(matcher, '{"y": ')
    assert ord('"') not in allowed(matcher)
    accept(matcher, "1}")
    assert matcher.ended


def test_a_constant_that_looks_like_a_pattern_is_kept(guides: VocabularyGuides) -> None:
    data = {"pattern": "(?!a)", "patternProperties": {"(?!a)": 1}}
    schema = {
        "type": "object",
        "properties": {"pattern": {"const": data}, "b": {"type": "string", "pattern": "(?!a)"}},
        "required": ["pattern", "b"],
    }
    accept_whole(guides, JSON_SCHEMA, json.dumps(schema), json.dumps({"pattern": data, "b": "x"}), lenient=True)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"items": [{"pattern": "(?!a)"}, {"type": "string", "pattern": "[b"}]}, "unclosed"),
        ({"type": "no such type"}, "no such type"),
        ({"$ref": "#/$defs/a"}, "does not exist"),
        ({"type": "integer", "multipleOf": 0}, "multiple"),
        ({"type": "number", "maximum": "3"}, "maximum"),
        ({"type": "object", "patternProperties": {"^a": {}, "(": {}}}, "unclosed group"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "greater than"),
    ],
)
def test_an_invalid_lenient_schema_is_rejected(guides: VocabularyGuides, schema: object, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        compiled(guides, Guide(JSON_SCHEMA, json.dumps(schema), lenient=True))


@pytest.mark.parametrize("tensor", contract.GUIDES, ids=lambda spec: spec.name)
def test_a_source_that_is_too_long_is_rejected(guides: VocabularyGuides, tensor: TensorSpec) -> None:
    assert f"longer than {MAX_SOURCE}" in refusal(guides, tensor, "a" * (MAX_SOURCE + 1))


def test_guides_are_rejected_for_a_model_without_an_end_token() -> None:
    assert "no token that ends" in refusal(build([]), REGEX, "a")


# ---- Limits of time

CHAIN = 1400
EXPLODING = {
    "intersections": (
        LARK,
        "start: A\nA: " + " & ".join(f"/(a|b)*a(a|b){{{n}}}/" for n in range(1, 40)),
    ),
    "many repetitions": (REGEX, ".*" * 5000),
    "a multiple of much": (JSON_SCHEMA, '{"type": "integer", "multipleOf": 100000007}'),
    "lines": (GRAMMAR, "\n" * 60_000),
    "a chain of rules": (LARK, "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(4000)) + 'a4000: "x"'),
    "a chain of references": (
        JSON_SCHEMA,
        json.dumps(
            {
                "$defs": {
                    str(i): {"items": {"$ref": f"#/$defs/{i + 1}"}} if i < CHAIN else {"type": "null"}
                    for i in range(CHAIN + 1)
                },
                "$ref": "#/$defs/0",
            }
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("tensor", "source"), EXPLODING.values(), ids=EXPLODING.keys())
def test_a_guide_that_is_too_expensive_is_rejected_and_the_next_one_works(
    guides: VocabularyGuides, tensor: TensorSpec, source: str
) -> None:
    assert len(source) <= MAX_SOURCE
    started = time.process_time()
    with pytest.raises((InvalidRequest, TrialOverrun)) as caught:
        compiled(guides, Guide(tensor, source))
    assert caught.type is TrialOverrun or "too complex" in str(caught.value)
    assert time.process_time() - started < 1, "the trial must run in another process"
    accept(compiled(guides, Guide(REGEX, "ab")), "ab")


@pytest.mark.parametrize(
    ("tensor", "source"),
    [
        (REGEX, "(a|b)*a(a|b){25}"),
        (REGEX, r"(\w{1,100}\s){1,1000}"),
        (REGEX, "((a{1000}){1000}){1000}"),
        (REGEX, "(a?){5000}a{5000}"),
        (GRAMMAR, 'root ::= "a"{100000000}'),
        (LARK, 'start: (("a"{1000}){1000}){1000}'),
        (JSON_SCHEMA, '{"type": "string", "pattern": "^(a|b)*a(a|b){25}$"}'),
        (JSON_SCHEMA, '{"type": "array", "minItems": 100000000}'),
        (JSON_SCHEMA, '{"type": "string", "minLength": 100000000}'),
    ],
)
def test_a_guide_with_huge_repetitions_is_cheap_or_rejected(
    guides: VocabularyGuides, tensor: TensorSpec, source: str
) -> None:
    random = np.random.default_rng(3)
    started = time.process_time()
    try:
        matcher = compiled(guides, Guide(tensor, source))
        for _ in range(200):
            matcher.accept(int(random.choice(sorted(allowed(matcher)))))
            if matcher.ended:
                break
    except InvalidRequest:
        pass
    assert time.process_time() - started < 2


@pytest.mark.slow
def test_an_ambiguous_grammar_is_ended_by_the_limit_of_a_step(guides: VocabularyGuides) -> None:
    """Each token takes longer than the one before."""
    with pytest.raises(InvalidRequest, match="complex"):
        accept(compiled(guides, Guide(LARK, "start: a\na: a a | a a a | /./")), "a" * 1000)


class Clock:
    """A clock that advances by `step` seconds at each call."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_a_guide_that_is_slow_for_too_many_tokens_is_ended(
    guides: VocabularyGuides, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(step=0.4 * SECONDS_PER_TOKEN)
    monkeypatch.setattr(guide, "thread_time", clock)
    matcher = compiled(guides, Guide(REGEX, "a*"))
    accept(matcher, "a" * 500)
    clock.step = 3 * SECONDS_PER_TOKEN
    n_tokens = int(SPARE_SECONDS / (5 * SECONDS_PER_TOKEN))
    accept(matcher, "a" * n_tokens)
    with pytest.raises(InvalidRequest, match="takes too long"):
        accept(matcher, "aa")
    accept(compiled(guides, Guide(REGEX, "a*")), "a" * n_tokens)


def test_a_grammar_that_becomes_too_large_is_ended_while_it_matches(guides: VocabularyGuides) -> None:
    matcher = compiled(guides, Guide(GRAMMAR, 'root ::= "a"{100000000}'))
    with pytest.raises(InvalidRequest, match="Too many items"):
        accept(matcher, "a" * 1000)


def test_no_trial_starts_after_closing() -> None:
    guides = build([END])
    compiled(guides, Guide(REGEX, "a"))
    guides.close()
    with pytest.raises(Draining):
        compiled(guides, Guide(REGEX, "a"))


def test_a_schema_cannot_set_compiler_options(guides: VocabularyGuides) -> None:
    """`lenient` would disable strict checks."""
    with pytest.raises(InvalidRequest, match="not"):
        compiled(guides, Guide(JSON_SCHEMA, json.dumps({"not": {"type": "string"}, "x-guidance": {"lenient": True}})))
    accept_whole(
        guides, JSON_SCHEMA, json.dumps({"const": {"x-guidance": 1}, "x-guidance": {"no": 1}}), '{"x-guidance": 1}'
    )
