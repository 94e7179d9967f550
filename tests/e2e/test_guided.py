"""The guide fields of vLLM and SGLang with a real model: completions and chats, whole and streamed, after reasoning and
beside tools."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2, Pair

MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "size": {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2},
    },
    "required": ["city", "size"],
}
"""Its longest value fits into the token limit."""
GBNF = 'root ::= "Paris " (digit digit | "::=")\ndigit ::= [0-9]'
LARK = 'start: "Paris " (DIGIT DIGIT | "::=") // } \nDIGIT: /[0-9]/\n'
CHOICES = ["Paris\n\t", 'L{o}n"d\\on', "(Rome|é🦊)", "/*"]
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking %}<think>\n{% endif %}"
    "{# a thought ends with </think> #}"
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def is_city(text: str) -> bool:
    value = json.loads(text)
    return (
        value.keys() == {"city", "size"}
        and re.fullmatch(r'\{"city": ".*", "size": \[-?\d+, -?\d+\]\}', text) is not None
    )


def is_compact_city(text: str) -> bool:
    json.loads(text)
    return re.fullmatch(r'\{"city":".*","size":\[-?\d+,-?\d+\]\}', text) is not None


def is_spaced_city(text: str) -> bool:
    json.loads(text)
    return (
        re.fullmatch(r'\{_?"city"_?:_?".*"_?,_?"size"_?:_?\[_?-?\d+_?,_?-?\d+_?\]_?\}', text.replace(" ", "_"))
        is not None
    )


def of_grammar(text: str) -> bool:
    return re.fullmatch(r"Paris (\d\d|::=)", text) is not None


GUIDES: dict[str, tuple[dict[str, Any], Callable[[str], Any]]] = {
    "structured_outputs.json": ({"structured_outputs": {"json": SCHEMA}}, is_city),
    "structured_outputs.json, text": ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, is_city),
    "disable_any_whitespace": (
        {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
        is_compact_city,
    ),
    "whitespace_pattern": ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "[ ]?"}}, is_spaced_city),
    "disable_additional_properties": (
        {"structured_outputs": {"json": SCHEMA, "disable_additional_properties": True}},
        is_city,
    ),
    "structured_outputs.json_object": ({"structured_outputs": {"json_object": True}}, lambda text: text[0] == "{"),
    "structured_outputs.regex": ({"structured_outputs": {"regex": "[a-c]{3}/"}}, re.compile("[a-c]{3}/").fullmatch),
    "structured_outputs.choice": ({"structured_outputs": {"choice": CHOICES}}, CHOICES.__contains__),
    "structured_outputs.grammar, GBNF": ({"structured_outputs": {"grammar": GBNF}}, of_grammar),
    "structured_outputs.grammar, Lark": ({"structured_outputs": {"grammar": LARK}}, of_grammar),
    "guided_json": ({"guided_json": SCHEMA, "guided_decoding_backend": "outlines"}, is_city),
    "guided_whitespace_pattern": ({"guided_json": SCHEMA, "guided_whitespace_pattern": ""}, is_compact_city),
    "guided_regex": ({"guided_regex": "[a-c]{3}\n/"}, re.compile("[a-c]{3}\n/").fullmatch),
    "guided_choice": ({"guided_choice": CHOICES}, CHOICES.__contains__),
    "guided_grammar, GBNF": ({"guided_grammar": GBNF}, of_grammar),
    "guided_grammar, Lark": ({"guided_grammar": LARK}, of_grammar),
    "ebnf": ({"ebnf": GBNF}, of_grammar),
    "json_schema, text": ({"json_schema": json.dumps(SCHEMA)}, is_city),
    "grammar, Lark": ({"grammar": f"%llguidance {{}}\n{LARK}"}, of_grammar),
}
UNFINISHED = "structured_outputs.json_object"
"""The guide whose text may end at the token limit."""


@pytest.fixture(scope="module")
def client(pair: Pair) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def thinker(worker_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    template: Path = tmp_path_factory.mktemp("template") / "thinks.jinja"
    template.write_text(REASONING)
    with (
        servers.sidecar(worker_address, "--chat-template", str(template)) as (_, url),
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


SETTINGS: dict[str, Any] = {"model": SMOLLM2, "max_tokens": 90, "temperature": 1.0, "seed": 3}


@pytest.mark.parametrize("name", GUIDES)
def test_each_field_constrains_the_text(client: OpenAI, name: str) -> None:
    guide, matches = GUIDES[name]
    chat = client.chat.completions.create(messages=MESSAGES, extra_body=guide, n=2, **SETTINGS)
    completion = client.completions.create(prompt=["The capital is", "a"], extra_body=guide, **SETTINGS)
    texts = [(c.message.content or "", c.finish_reason) for c in chat.choices]
    texts += [(c.text, c.finish_reason) for c in completion.choices]
    for text, reason in texts:
        assert matches(text), text
        assert reason == "stop" or name == UNFINISHED


@pytest.mark.parametrize("name", GUIDES)
def test_each_field_constrains_a_stream(client: OpenAI, name: str) -> None:
    guide, matches = GUIDES[name]
    stream = client.chat.completions.create(messages=MESSAGES, extra_body=guide, stream=True, **SETTINGS)
    assert matches("".join(chunk.choices[0].delta.content or "" for chunk in stream))


@pytest.mark.parametrize("name", [name for name in GUIDES if "GBNF" not in name and name != "ebnf"])
def test_each_field_constrains_the_content_after_reasoning_or_instead_of_a_call(thinker: OpenAI, name: str) -> None:
    guide, matches = GUIDES[name]
    for body in ({"enable_thinking": True}, {"enable_thinking": False}, {"tools": [TOOL]}):
        completion = thinker.chat.completions.create(messages=MESSAGES, extra_body={**guide, **body}, **SETTINGS)
        [choice] = completion.choices
        if choice.finish_reason == "stop":
            assert matches(choice.message.content or ""), choice
        else:
            assert choice.finish_reason in ("tool_calls", "length")
        if body.get("enable_thinking") is False:
            assert choice.finish_reason == "stop" or name == UNFINISHED


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "a schema": ("structured_outputs.json", {"structured_outputs": {"json": {"type": "text"}}}, "Invalid type: text"),
    "a regex": ("guided_regex", {"guided_regex": "a("}, "unclosed group"),
    "whitespace": ("guided_json", {"guided_json": {}, "guided_whitespace_pattern": "(?=a)"}, "look-around"),
    "Lark": ("structured_outputs.grammar", {"structured_outputs": {"grammar": "start: a\n\na: missing"}}, "line 3: "),
    "GBNF": ("ebnf", {"ebnf": "root ::= missing"}, "missing"),
}


@pytest.mark.parametrize(("param", "guide", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_guide_that_cannot_be_compiled_is_refused_by_the_clients_field(
    client: OpenAI, thinker: OpenAI, param: str, guide: dict[str, Any], reason: str
) -> None:
    for server in (client, thinker):
        with pytest.raises(BadRequestError) as refused:
            server.chat.completions.create(messages=MESSAGES, extra_body=guide, **SETTINGS)
        assert refused.value.param == param
        assert reason in refused.value.message
        assert "%" not in refused.value.message


@pytest.mark.parametrize(
    ("guide", "expected"),
    [
        ({"guided_choice": ["<|im_start|>x"]}, "<|im_start|>x"),
        ({"guided_regex": r"a<\|endoftext\|>"}, "a<|endoftext|>"),
        ({"guided_json": {"const": "<|im_start|>"}}, '"<|im_start|>"'),
        ({"guided_grammar": 'start: "<|endoftext|>" "y"'}, "<|endoftext|>y"),
    ],
)
def test_the_text_of_a_control_token_is_text(client: OpenAI, guide: dict[str, Any], expected: str) -> None:
    completion = client.completions.create(model=SMOLLM2, prompt="x", max_tokens=30, extra_body=guide)
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == (expected, "stop")
