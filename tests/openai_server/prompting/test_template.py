from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import AssistantMessage, Message, SystemMessage, TextPart, UserMessage
from openai_server.prompting.source import CompiledSource, compile_source
from openai_server.prompting.template import CHATML, RenderOptions, Templates, source_for
from tests.openai_server.prompting import reference

HI: list[Message] = [UserMessage("hi")]
NOW = datetime(2026, 3, 4, 5, 6)
DEFAULT = RenderOptions()


def templates(characters: int = 100_000) -> Templates:
    return Templates(clock=lambda: 0.0, now=lambda: NOW, seconds=1, characters=characters)


def render(
    source: str, messages: Sequence[Message] = HI, options: RenderOptions = DEFAULT, **special_tokens: str
) -> str:
    return templates().render(source, messages, special_tokens, options)


def failure(source: str, messages: Sequence[Message] = HI) -> str:
    with pytest.raises(InvalidRequest) as caught:
        render(source, messages)
    assert (caught.value.param, caught.value.code) == ("messages", "chat_template_failed")
    return caught.value.message


def test_chatml_is_rendered() -> None:
    messages: list[Message] = [SystemMessage("s"), UserMessage("u"), AssistantMessage("a"), UserMessage("v")]
    assert render(CHATML, messages) == (
        "<|im_start|>system\ns<|im_end|>\n"
        "<|im_start|>user\nu<|im_end|>\n"
        "<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nv<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{{ bos_token }}|{{ eos_token }}|{{ add_generation_prompt }}", "<s>||True"),
        ("{% if tools %}tools{% endif %}{% if documents is defined and documents %}d{% endif %}.", "."),
        ("{{ messages[0]['content'] }}{{ messages[0].content }}{{ messages[-1].role }}", "hihiuser"),
        ("  {% if true %}\n    x\n  {% endif %}\n", "    x\n"),  # trim_blocks, lstrip_blocks
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"),
        ("{% generation %}a{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}", "a1"),
        ("{{ strftime_now('%d %b %Y') }}", "04 Mar 2026"),
        ("{{ {'a': ['<é>', none, true]} | tojson }}", '{"a": ["<é>", null, true]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=2) }}", '{\n  "b": 1,\n  "a": 2\n}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        (
            "{% for m in messages %}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.index0 }}{% endfor %}",
            "TrueTrue10",
        ),
        ("{% for a in [1, [2, [3]]] recursive %}{{ a if a is integer else loop(a) }}{% endfor %}", "123"),
        ("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"),
        ("{% macro f(x, y=2) %}({{ x }}{{ y }}{{ caller() if caller }}){% endmacro %}{{ f(1) }}", "(12)"),
        ("{% macro f() %}({{ caller() }}){% endmacro %}{% call f() %}in{% endcall %}", "(in)"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x ~ x }}{% filter upper %}b{% endfilter %}", "a1a1B"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | join(',') }}", "hi"),
        ("{{ messages | map(attribute='role') | join('+') }}{{ messages | join('+', attribute='role') }}", "useruser"),
        (
            "{{ ['b', 'a'] | sort | join }}{{ {'k': 1}.items() | list }}{{ {'k': 1} | dictsort }}",
            "ab[('k', 1)][('k', 1)]",
        ),
        ("{{ ' x '.strip() }}{{ 'a,b'.split(',')[-1] }}{{ 'ab'.startswith('a') }}{{ 'Ab'.lower() }}", "xbTrueab"),
        ("{{ 'a' * 3 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 5 }}{{ [1] + [2] }}{{ '%s-%d' % ('a', 3) }}", "aaa3332[1, 2]a-3"),
        (
            "{{ '{} {x:>3}'.format('a', x=1) }}{{ '%03d' | format(7) }}{{ 'a' | center(3) }}{{ 'a'.ljust(3) }}.",
            "a   1007 a a  .",
        ),
        (
            "{{ 'a\nb' | indent(2) }}{{ 'aa' | replace('a', 'b') }}{{ 'aa'.replace('a', 'c', 1) }}",
            "a\n  bbbca",
        ),
        (
            "{{ 1.26 | round(1) }}{{ 2.5 | int }}{{ 'x' | length }}{{ [3, 1] | min }}",
            "1.3211",
        ),
        ("{{ 'x' if 'a' in 'abc' and 'd' not in ['a'] and 1 < 2 <= 2 else 'y' }}", "x"),
        ("{{ missing }}{{ messages[0].missing is defined }}{{ missing | default('d') }}", "Falsed"),
        ("{{ messages[1:] | length }}{{ 'abc'[::-1] }}{{ [1, 2] | batch(2) | list }}", "0cba[[1, 2]]"),
    ],
)
def test_a_feature_of_templates_is_supported(source: str, prompt: str) -> None:
    assert render(source, bos_token="<s>") == prompt


def test_a_typical_template_is_rendered() -> None:
    source = (
        "{{- bos_token }}"
        "{%- if messages[0]['role'] == 'system' -%}"
        "{%- set first = messages[0]['content'] | trim + '\n\n' -%}{%- set turns = messages[1:] -%}"
        "{%- else -%}{%- set first = '' -%}{%- set turns = messages -%}{%- endif -%}"
        "{%- for message in turns -%}"
        "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
        "{{ raise_exception('Roles must alternate') }}{%- endif -%}"
        "{{ '<turn>' + message['role'] + '\n' + (first if loop.first else '') }}"
        "{%- if message['content'] is string -%}{{ message['content'] | trim }}"
        "{%- elif message['content'] is iterable -%}"
        "{%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}{%- endif -%}"
        "{{ '<end>\n' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<turn>model\n' }}{%- endif -%}"
    )
    messages: list[Message] = [SystemMessage(" s "), UserMessage([TextPart("a"), TextPart("b")])]
    assert render(source, messages, bos_token="<bos>") == "<bos><turn>user\ns\n\na\nb<end>\n<turn>model\n"
    assert "Roles must alternate" in failure(source, [UserMessage("a"), UserMessage("b")])


# ---- Tools and variables of a request


def test_tools_are_passed_to_the_template() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": "<é>"}}}
    source = "{% if tools %}{{ tools | tojson }}{% else %}{{ tools }}{% endif %}"
    assert render(source, options=RenderOptions(tools=[tool])) == (
        '[{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": "<é>"}}}]'
    )
    assert render(source) == "None"


def test_variables_of_the_request_are_passed() -> None:
    source = "{{ enable_thinking }}{{ bos_token }}{{ documents }}{{ x.y[0] }}"
    variables = {
        "enable_thinking": False,
        "bos_token": "B",
        "documents": [],
        "x": {"y": ["z"]},
        "self": 1,
        "unknown": 2,
    }
    assert render(source, options=RenderOptions(chat_template_kwargs=variables), bos_token="<s>") == "FalseB[]z"


@pytest.mark.parametrize(
    "name",
    [
        *("messages", "tools", "add_generation_prompt", "continue_final_message"),
        *("raise_exception", "strftime_now", "namespace", "range", "dict"),
    ],
)
def test_reserved_variables_cannot_be_set(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"can't set '{name}'") as caught:
        render("x", options=RenderOptions(chat_template_kwargs={name: []}))
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_the_generation_prompt_can_be_left_out() -> None:
    assert render(CHATML, options=RenderOptions(add_generation_prompt=False)) == "<|im_start|>user\nhi<|im_end|>\n"


def test_the_tool_template_is_used_with_tools() -> None:
    both = {"chat_template": "a", "chat_template_tool_use": "b"}
    assert (source_for(both, tools=False), source_for(both, tools=True)) == ("a", "b")
    assert source_for({"chat_template": "a"}, tools=True) == "a"
    assert source_for({}, tools=True) is None


@pytest.mark.parametrize(
    "source",
    [
        "{{ x | tojson }}",
        "{{ x | tojson(ensure_ascii=true) }}",
        "{{ x | tojson(indent=2) }}{{ x | tojson(indent=0) }}{{ x | tojson(indent='\t') }}",
        "{{ x | tojson(separators=(',', ':')) }}{{ x | tojson(indent=4, separators=(',', ' : ')) }}",
        "{{ x | tojson(sort_keys=true) }}",
        "{{ x | tojson(true, 1, ('; ', '= '), true) }}",
    ],
)
def test_json_is_that_of_transformers(source: str) -> None:
    value = {"b": ["</script> & 'é' \u2028 😀", 1.0, 1e100, -0.5, None, True], "a": {"2": [], "1": {}}, "c": [[1, [2]]]}
    prompt = render(source, options=RenderOptions(chat_template_kwargs={"x": value}))
    assert prompt == reference.render(source, [{"role": "user", "content": "hi"}], NOW, x=value)


# ---- Failures


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ raise_exception('No system role') }}", "No system role"),
        ("{{ raise_exception(messages) }}", "raise_exception"),
        ("{% if %}", "line 1"),
        ("\n\n{% endfor %}", "line 3"),
        ("{{ messages[0].a.b }}", "no attribute 'a'"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{{ none | length }}", "TypeError"),
        ("{{ none.x.y }}", "has no attribute 'x'"),
        ("{{ x | nofilter }}", "nofilter"),
        ("{{ 1 is notest }}", "notest"),
        ("{% include 'x' %}", "no loader"),
        ("{% for x in 3 %}{% endfor %}", "not iterable"),
        ("{{ range }}", "can't be written"),
        ("{{ messages | map('upper') }}", "can't be written"),
        ("{{ undefined_value | tojson }}", "not JSON serializable"),
        ("{{ (" * 500, "nests too deeply"),
        ("{{ '%d' % 'x' }}", "TypeError"),
    ],
)
def test_the_error_of_a_failing_template_has_the_reason(source: str, problem: str) -> None:
    assert problem in failure(source)


def test_a_long_error_message_is_cut() -> None:
    assert len(failure("{{ raise_exception('x' * 50000) }}")) < 1200


@pytest.mark.parametrize("source", ["{{ messages[0].content }}{{ x }}", "{% if %}"])
def test_a_template_is_compiled_once(source: str) -> None:
    compiled: list[str] = []

    def compile(source: str) -> CompiledSource:
        compiled.append(source)
        return compile_source(source)

    templates = Templates(clock=lambda: 0.0, now=lambda: NOW, seconds=1, characters=1000, compile=compile)
    for k in range(100):  # variables of the request do not matter
        with suppress(InvalidRequest):
            templates.render(
                source, HI, {"bos_token": str(k)}, RenderOptions(chat_template_kwargs={"x": k, f"y{k}": 1})
            )
    assert compiled == [source]


def test_only_the_last_used_templates_are_kept() -> None:
    compiled: list[str] = []

    def compile(source: str) -> CompiledSource:
        compiled.append(source)
        return compile_source(source)

    templates = Templates(clock=lambda: 0.0, now=lambda: NOW, seconds=1, characters=1000, compile=compile)
    for k in (*range(100), 99, 90, 0):
        assert templates.render(str(k), HI, {}) == str(k)
    assert compiled == [str(k) for k in (*range(100), 0)]


def test_a_prompt_above_the_limit_is_rejected() -> None:
    assert templates(100).render("{{ 'x' * 100 }}", HI, {}) == "x" * 100
    with pytest.raises(InvalidRequest, match="longer than 100 characters"):
        templates(100).render("{{ 'x' * 101 }}", HI, {})
