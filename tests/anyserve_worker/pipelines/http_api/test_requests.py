"""Bodies of requests, and the fields that are refused."""

from typing import Any

import pytest

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.http_api.mappings import builtin_names, read_api
from tests.anyserve_worker.pipelines.answering import TOOLS, chat

SCHEMA = {"type": "object"}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
MINIMAL = {
    "request": {"path": "/x", "body": {"text": "{last_user}"}},
    "answer": {"text": "a", "finish": {"absent": "stop"}},
}


def body_of(name: str, changes: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    _, body, _ = read_api(name, None, changes or {}).requests.write(chat(**fields), "m")
    return body


LABELS: dict[str, Any] = {
    "user": "u",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "auto",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "stream_options": {"include_usage": True},
}
NEUTRAL: dict[str, Any] = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "top_p": 1.0,
    "temperature": 1,
    "logprobs": False,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "logit_bias": {},
    "stop": [],
    "seed": None,
}


def test_labels_and_neutral_values_are_accepted_by_each_mapping() -> None:
    assert body_of("", MINIMAL, **LABELS, **NEUTRAL) == {"text": "Hi"}
    for name in builtin_names():
        body_of(name, **LABELS, **NEUTRAL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.5),
        ("max_tokens", 1),
        ("max_completion_tokens", 1),
        ("stop", "x"),
        ("tools", TOOLS),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("seed", 0),
        ("n", 2),
        ("presence_penalty", 1),
        ("parallel_tool_calls", False),
        ("reasoning_effort", "low"),
        ("no_such_field", 1),
        ("logprobs", 0),
    ],
)
def test_all_other_fields_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=field) as caught:
        body_of("", MINIMAL, **{field: value})
    assert caught.value.field == field


def test_several_choices_are_refused_even_if_a_mapping_refers_to_n() -> None:
    changes = {**MINIMAL, "request": {"path": "/x", "body": {"n": "{n}"}}}
    assert body_of("", changes, n=1) == {"n": 1}
    with pytest.raises(InvalidInput, match="'n' must be 1"):
        body_of("", changes, n=2)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit(field: str) -> None:
    fields: dict[str, Any] = {field: 7}
    assert body_of("ollama", **fields)["options"] == {"num_predict": 7}


FIELDS: list[tuple[str, dict[str, Any], str, Any]] = [
    ("ollama", {"response_format": JSON_SCHEMA}, "format", SCHEMA),
    ("ollama", {"response_format": {"type": "json_object"}}, "format", "json"),
    ("ollama", {"reasoning_effort": "none"}, "think", False),
    ("ollama", {"reasoning_effort": "high"}, "think", "high"),
    ("llamacpp", {"response_format": JSON_SCHEMA}, "json_schema", SCHEMA),
    ("llamacpp", {"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"}),
    ("llamacpp", {"repetition_penalty": 1.5}, "repeat_penalty", 1.5),
    ("cohere_v2", {"response_format": JSON_SCHEMA}, "response_format", {"type": "json_object", "schema": SCHEMA}),
    ("cohere_v2", {"top_p": 1}, "p", 0.99),
    ("cohere_v2", {"top_p": 0.5}, "p", 0.5),
    ("anthropic", {}, "max_tokens", 4096),
    ("anthropic", {"temperature": 1.5}, "temperature", 1),
    ("anthropic", {"stop": "x"}, "stop_sequences", ["x"]),
    (
        *("gemini", {"response_format": JSON_SCHEMA}, "generationConfig"),
        {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
    ),
    (
        *("gemini", {"response_format": {"type": "json_object"}}, "generationConfig"),
        {"responseMimeType": "application/json"},
    ),
    ("gemini", {"reasoning_effort": "low"}, "generationConfig", {"thinkingConfig": {"thinkingBudget": 1024}}),
    ("gemini", {}, "generationConfig", None),
    ("gemini", {}, "systemInstruction", None),
    ("gemini", {}, "tools", None),
    ("vllm_generate", {}, "max_tokens", 1024),
]


@pytest.mark.parametrize(("name", "fields", "key", "value"), FIELDS)
def test_fields(name: str, fields: dict[str, Any], key: str, value: Any) -> None:
    assert body_of(name, **fields).get(key) == value


@pytest.mark.parametrize(
    ("temperature", "parameters"),
    [
        (None, {}),
        (0, {"do_sample": False}),
        (0.0, {"do_sample": False}),
        (0.5, {"do_sample": True, "temperature": 0.5}),
    ],
)
def test_temperatures_of_tgi(temperature: float | None, parameters: dict[str, Any]) -> None:
    always = {"details": True, "return_full_text": False, "stop": ["<|im_end|>"]}
    assert body_of("tgi", temperature=temperature)["parameters"] == {**always, **parameters}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("tgi", "stop", list("abcd")),
        ("gemini", "stop", list("abcdef")),
        ("ollama", "reasoning_effort", "extreme"),
        ("tgi", "response_format", {"type": "json_object"}),
        ("triton_generate", "stop", "x"),
        ("ollama", "logit_bias", {"1": 2}),
    ],
)
def test_values_that_an_api_cannot_take_are_refused(name: str, field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of(name, **{field: value})
    assert caught.value.field == field


def test_constants_replace_values() -> None:
    changes = {"request": {"body": {"options": {"num_ctx": 8192, "temperature": 0.1}}}}
    assert body_of("ollama", changes)["options"] == {"num_ctx": 8192, "temperature": 0.1}
    with pytest.raises(InvalidInput, match="temperature"):
        body_of("ollama", changes, temperature=0.5)


def test_the_last_text_of_the_user() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": "d"},
    ]
    assert body_of("", MINIMAL, messages=messages) == {"text": "b\n\nc"}
    with pytest.raises(InvalidInput, match="message of the user"):
        body_of("", MINIMAL, messages=messages[2:])


def test_prompts() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "{{ 7 * 6 }} <|im_end|>"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert body_of("llamacpp", messages=messages)["prompt"] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{{ 7 * 6 }} <|im_end|><|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )
    plain = body_of("llamacpp", {"prompt": {"format": "plain", "stop": ["#"]}}, messages=messages)
    assert plain["prompt"] == "Be brief.\n\nUser: {{ 7 * 6 }} <|im_end|>\nAssistant: b\nUser: c\nAssistant:"
    assert plain["stop"] == ["\nUser:", "#"]
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ bos_token }}"
    roles = {"roles": {"user": "U", "assistant": "A", "system": "S"}}
    own = body_of("llamacpp", {"prompt": {"template": template}, "messages": roles}, messages=messages[2:])
    assert (own["prompt"], "stop" in own) == ("[A]b[U]c", False)


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('only users') }}", "{{ messages[9].content.x }}", "{{ 1 / 0 }}", "{{ ''.__class__.mro() }}"],
)
def test_a_template_that_refuses_messages(template: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of("llamacpp", {"prompt": {"template": template}})
    assert caught.value.field == "messages"


BAD_MESSAGES: list[tuple[str, list[dict[str, Any]], str]] = [
    ("llamacpp", [{"role": "tool", "content": "x"}], "messages.0"),
    ("llamacpp", [{"role": "assistant", "tool_calls": [{}]}], "messages.0"),
    ("llamacpp", [{"role": "function", "content": "x"}], "messages.0.role"),
    ("ollama", [{"role": "alien", "content": "x"}], "messages.0.role"),
    ("ollama", [{"role": "user", "content": [{"type": "input_audio"}]}], "messages.0.content.0"),
    ("ollama", [{"role": "assistant", "function_call": {"name": "f"}}], "messages.0.function_call"),
    ("ollama", [{"role": "assistant", "tool_calls": [{"type": "custom"}]}], "messages.0.tool_calls.0"),
    (
        *("ollama", [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
        "messages.0.tool_calls.0.function.arguments",
    ),
]


@pytest.mark.parametrize(("name", "messages", "field"), BAD_MESSAGES)
def test_messages_that_an_api_cannot_take_are_refused(name: str, messages: list[Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of(name, messages=messages)
    assert caught.value.field == field


def test_a_custom_tool_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of("anthropic", tools=[{"type": "custom", "custom": {"name": "x"}}])
    assert caught.value.field == "tools.0.type"


def test_a_refusal_of_the_assistant_is_its_text() -> None:
    messages = [{"role": "assistant", "content": None, "refusal": "No."}, {"role": "user", "content": "Why?"}]
    assert body_of("ollama", messages=messages)["messages"][0] == {"role": "assistant", "content": "No."}
