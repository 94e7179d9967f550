"""Capabilities found in small templates; test_corpus.py has real ones."""

from datetime import datetime

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.prompting.capabilities import Capabilities
from openai_server.prompting.messages import Form
from openai_server.prompting.template import Templates


def capabilities(source: str) -> Capabilities:
    return Templates(clock=lambda: 0.0, now=lambda: datetime(2026, 3, 4), seconds=1, characters=10_000).capabilities(
        source
    )


def looping(body: str) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}"


def calls(body: str) -> str:
    return looping("{{ m.content }}{% for c in m.tool_calls %}" + body + "{% endfor %}")


def test_undeclared_names_are_variables() -> None:
    found = capabilities(
        "{% set a = 1 %}{{ a }}{{ enable_thinking }}{% if b is defined %}{{ strftime_now('') }}{% endif %}"
    )
    assert found.variables == {"enable_thinking", "b"}
    assert not found.tools
    assert capabilities("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}").tools


@pytest.mark.parametrize(
    "condition",
    [
        "m.role == 'x'",
        "m['role'] != 'x'",
        "m.get('role') in ['x', 'y']",
        "m.role | lower == 'x'",
        "m.role.lower() == 'x'",
        "'x' == role",
        "msg_role in ('x',)",
        "messages | selectattr('role', 'equalto', 'x') | list",
    ],
)
def test_compared_roles_are_found(condition: str) -> None:
    assert "x" in capabilities(looping("{% if " + condition + " %}{% endif %}")).roles


@pytest.mark.parametrize("condition", ["m.name == 'x'", "'x' in m", "m.x", "m.role is defined", "m['function']"])
def test_other_comparisons_are_not_roles(condition: str) -> None:
    assert capabilities(looping("{% if " + condition + " %}{% endif %}")).roles == set()


def test_named_roles_are_kept_in_the_form() -> None:
    form = capabilities(looping("{% if m.role in ['developer', 'function'] %}{% endif %}{{ m.content }}")).form
    assert form == Form(developer=True, function=True)


@pytest.mark.parametrize(
    ("source", "supported"),
    [
        (looping("{{ m.content }}"), True),
        ("{{ messages[-1].content }}", False),
        (looping("{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"), False),
        ("{% for t in tools %}{% endfor %}" + looping("{{ m.content }}"), True),
    ],
)
def test_system_messages_are_supported_if_their_content_is_rendered(source: str, supported: bool) -> None:
    assert capabilities(source).system is supported


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (looping("{{ m.content }}"), Form()),
        (looping("{% for p in m.content %}{{ p.text }}{% endfor %}"), Form(parts=True)),
        (looping("{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"), Form(parts=True)),
        (
            looping(
                "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}"
                "{% endif %}"
            ),
            Form(),
        ),
        ("nothing of it", Form()),
        (calls("{{ c.function.arguments | tojson }}"), Form()),
        (calls("{{ c.function.arguments }}"), Form(text_arguments=True)),
        (calls("{{ 'f' + c.function.arguments }}"), Form(text_arguments=True)),
        (calls("{% for k, v in c.function.arguments | items %}{{ k ~ v }}{% endfor %}"), Form()),
        (
            calls("{% if c.function.arguments is string %}{{ c.function.arguments }}{% endif %}"),
            Form(text_arguments=True),
        ),
        (calls("{% if m.content is none %}{{ c.function.arguments | tojson }}{% endif %}"), Form(null_content=True)),
        (calls("{% if c.id | length != 9 %}{{ raise_exception('id') }}{% endif %}"), Form(short_ids=True)),
        (
            calls("{% if m.content and m.thinking %}{{ raise_exception('') }}{% endif %}"),
            Form(content_or_reasoning=True),
        ),
        (calls("{% if m.reasoning %}{{ raise_exception('') }}{% endif %}"), Form()),
        (calls("{{ raise_exception('none') }}"), Form()),
        (
            looping("{{ m.content }}") + "{% for t in tools or [] %}{{ 'a' + t.function.description }}{% endfor %}",
            Form(whole_tools=True),
        ),
        (looping("{{ m.content }}") + "{% if tools %}{{ raise_exception('no tools') }}{% endif %}", Form()),
    ],
)
def test_the_form_of_messages_is_found(source: str, form: Form) -> None:
    assert capabilities(source).form == form


@pytest.mark.parametrize(
    "body",
    [
        "{% for i in range(99999) %}{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    ],
)
def test_an_endless_template_is_tried_once(body: str) -> None:
    renderings: list[str] = []
    templates = Templates(
        clock=lambda: 0.0,
        now=lambda: renderings.append("") or datetime(2026, 3, 4),  # type: ignore[func-returns-value]
        seconds=1,
        characters=10_000,
    )
    assert templates.capabilities("{{ strftime_now('') }}" + body + looping("{{ m.tool_calls }}")).form == Form()
    assert len(renderings) == 1


def test_a_template_that_cannot_be_compiled_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="line 1"):
        capabilities("{% if %}")
