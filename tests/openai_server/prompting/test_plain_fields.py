"""No field of a request becomes a special token, in any template of the corpus."""

import json
import re
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openai_server.api.schemas import parse_chat
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.errors import InvalidRequest
from openai_server.prompting.chat_prompt import ChatPrompt
from openai_server.prompting.plan import Planner
from openai_server.prompting.template import Templates
from tests.openai_server.prompting.conversations import QUESTION, Case, message
from tests.openai_server.prompting.reference import BOS, EOS
from tests.openai_server.prompting.test_corpus import FORMS, NAMES, NOW, outcome, reference_prompt, source_of

pytestmark = pytest.mark.slow

Json = dict[str, Any]

TEMPLATES = Templates(clock=lambda: 0.0, now=lambda: NOW, seconds=1, characters=1 << 20)
PLANNER = Planner(TEMPLATES, new_id=lambda: "call_new")
TOKEN = re.compile(
    r"<\|[a-zA-Z_/]+\|>|<｜[^｜<>]+｜>|<\|?/?[a-z_]+(?::[a-z_]+)?\|?>|\[/?[A-Z_]{2,}\]|◁/?think▷|<[a-z]+of[a-z_]+>"
)


@cache
def tokens_of(name: str) -> tuple[str, ...]:
    """Returns possible special tokens of a model with this template."""
    own = dict.fromkeys(TOKEN.findall(source_of(name)))
    return (*own, "<|im_start|>", "<|im_end|>", BOS, EOS, "<unk>", "<|endoftext|>")


@cache
def parameters_of(name: str) -> dict[str, str]:
    """Returns the parameters of a model in which a third of the special tokens are user-defined."""
    control = [token for i, token in enumerate(tokens_of(name)) if i % 3]
    user_defined = [token for token in tokens_of(name) if token not in control]
    return {
        "chat_template": source_of(name),
        "bos_token": BOS,
        "eos_token": EOS,
        "control_tokens": json.dumps(control),
        "user_defined_tokens": json.dumps(user_defined),
    }


def markup_of(name: str) -> list[str]:
    """Returns the tokens that are markup in a prompt of this template."""
    parameters = parameters_of(name)
    source = re.sub(r"\{#.*?#\}", "", source_of(name), flags=re.DOTALL)
    used = [token for token in json.loads(parameters["user_defined_tokens"]) if token in source]
    return [*json.loads(parameters["control_tokens"]), *used, BOS, EOS]


def prompt_of(name: str, body: Json) -> ChatPrompt:
    return PLANNER.prompt(parse_chat(json.dumps(body).encode()).turn(), parameters_of(name), EVERYTHING)


def attempt(name: str, body: Json) -> ChatPrompt | InvalidRequest:
    try:
        return prompt_of(name, body)
    except InvalidRequest as error:
        return error


def occurrences(text: str, tokens: list[str]) -> set[tuple[int, int]]:
    return {
        (match.start(), match.start() + len(token))
        for token in tokens
        for match in re.finditer(f"(?={re.escape(token)})", text)
    }


def in_characters(prompt: ChatPrompt) -> list[tuple[int, int]]:
    data = prompt.text.encode()
    return [(len(data[:start].decode()), len(data[:end].decode())) for start, end in prompt.plain]


# ---- Markup in any field

NEUTRAL = str.maketrans("<[◁|", ">]▷!")
"""Replaces the characters of markup; the length stays the same, also escaped for HTML."""


@st.composite
def bodies(draw: st.DrawFn, tokens: tuple[str, ...], *, short_ids: bool) -> Json:
    def text(label: str) -> str:
        """Returns a text with markup, or with part of a token at one end."""
        parts = draw(st.lists(st.sampled_from((*tokens, "a", " b ", "\n", '"x"', "é")), min_size=1, max_size=3))
        token = draw(st.sampled_from(tokens))
        cut = draw(st.integers(1, len(token) - 1))
        kind = draw(st.integers(0, 3))
        return {
            0: label + "".join(parts),
            1: label + "".join(parts) + token[:cut],
            2: token[cut:] + label,
            3: label + "plain",
        }[kind]

    arguments = json.dumps({f"k{text('')}": text("v"), "list": [text("i")]}, ensure_ascii=draw(st.booleans()))
    id = "call00001" if short_ids else text("id")
    tool = {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": text("d"),
            "parameters": {
                "type": "object",
                "properties": {text("p"): {"type": "string", "description": text("e"), "enum": [text("f")]}},
            },
        },
    }
    call = {"id": id, "type": "function", "function": {"name": "look_up", "arguments": arguments}}
    messages: list[Json] = []
    if draw(st.booleans()):
        messages.append(message("system", text("s")))
    user: Any = text("u")
    if draw(st.booleans()):
        user = [{"type": "text", "text": text("q")}, {"type": "text", "text": text("r")}]
    messages.append({"role": "user", "content": user})
    with_tools = draw(st.booleans())
    if with_tools:
        assistant: Json = {"role": "assistant", "content": draw(st.sampled_from(["", text("c")])), "tool_calls": [call]}
        assistant["reasoning_content"] = text("r")  # otherwise a tag in the content may be one of reasoning
        messages += [assistant, {"role": "tool", "tool_call_id": id, "name": "look_up", "content": text("t")}]
    else:
        messages += [
            {"role": "assistant", "content": "plain", "reasoning_content": text("r")},
            message("user", text("w")),
        ]
    return {"messages": messages} | ({"tools": [tool]} if with_tools else {})


def blurred(text: str) -> str:
    return text.replace("&lt;", "&gt;").translate(NEUTRAL)


def neutral(value: Any) -> Any:
    """Returns the value without markup."""
    if isinstance(value, str):
        return value.translate(NEUTRAL)
    if isinstance(value, list):
        return [neutral(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        neutral(key): neutral_arguments(item) if key == "arguments" else neutral(item) for key, item in value.items()
    }


def neutral_arguments(arguments: str) -> str:
    return json.dumps(neutral(json.loads(arguments)), ensure_ascii=arguments.isascii())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6)
@given(data=st.data())
def test_markup_in_any_field_is_text(name: str, data: st.DataObject) -> None:
    short_ids = name in FORMS and FORMS[name].short_ids
    body = data.draw(bodies(tokens_of(name), short_ids=short_ids))
    expected = attempt(name, neutral(body))
    if isinstance(expected, InvalidRequest):
        rejection = attempt(name, body)
        assert isinstance(rejection, InvalidRequest)
        assert blurred(rejection.message) == blurred(expected.message)
        return
    assert not expected.plain
    prompt = prompt_of(name, body)
    assert blurred(prompt.text) == blurred(expected.text)
    plain = in_characters(prompt)
    for start, end in occurrences(prompt.text, markup_of(name)):
        is_genuine = prompt.text[start:end] == expected.text[start:end]
        is_plain = any(a < end and start < b for a, b in plain)
        assert is_plain != is_genuine, (prompt.text[start - 20 : end + 20], start, end, plain)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4)
@given(data=st.data())
def test_adjacent_parts_do_not_form_a_token(name: str, data: st.DataObject) -> None:
    """Also if the template joins or strips them."""
    token = data.draw(st.sampled_from(tokens_of(name)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(token) - 1), min_size=1, max_size=2)))
    space = data.draw(st.sampled_from(["", " ", "\n"]))
    parts = [token[a:b] + space for a, b in pairwise((0, *cuts, len(token)))]
    for content in ([{"type": "text", "text": part} for part in parts], parts[0]):
        body = {"messages": [message("user", content), message("assistant", parts[-1]), message("user", parts[0])]}
        expected, prompt = attempt(name, neutral(body)), attempt(name, body)
        if isinstance(expected, InvalidRequest) or isinstance(prompt, InvalidRequest):
            assert type(expected) is type(prompt)
            return
        plain = in_characters(prompt)
        for start, end in occurrences(prompt.text, markup_of(name)):
            is_plain = any(a < end and start < b for a, b in plain)
            assert is_plain or prompt.text[start:end] == expected.text[start:end]


# ---- Reasoning in the content of the assistant

CONTENTS_WITH_REASONING = [
    "<think>\nI see.\n</think>\n\nYes.",
    "<think>I see.</think>Yes.",
    "\n<think>\n\n</think>\n\nYes.",
    "I see.\n</think>\n\nYes.",
    "<think>\nI see",
    "[THINK]I see.[/THINK]Yes.",
    "<seed:think>I see.</seed:think>Yes.",
    "Here are my reasoning steps:\nI see.\n[BEGIN FINAL RESPONSE]\nYes.\n[END FINAL RESPONSE]",
    "<think>I see.</think><response>Yes.</response>",
]


@pytest.mark.parametrize("name", NAMES)
def test_reasoning_in_the_content_is_rendered_as_by_transformers(name: str) -> None:
    def rendered(name: str, case: Case, **_: Any) -> str:
        return prompt_of(name, {"messages": case.sent}).text

    for content in CONTENTS_WITH_REASONING:
        messages = [QUESTION, message("assistant", content), message("user", "Oh.")]
        case = Case(messages, messages)
        expected = outcome(reference_prompt, name, case, "x", 1)
        assert (content, outcome(rendered, name, case, "x", 1)) == (content, expected)
