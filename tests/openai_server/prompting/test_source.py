"""Limits of a chat template's source, far above the size of known templates."""

import pytest
from jinja2 import TemplateError

from openai_server.prompting.sandbox import MAX_PYTHON, SandboxedTemplates
from openai_server.prompting.source import MAX_SOURCE, MAX_TOKENS, compile_source, problem
from tests.templates import template_paths

HEADROOM = 4
"""Factor between each limit and the largest known template."""

SETS = "".join(f"{{% set a{k} = 1 %}}" for k in range(900))


@pytest.mark.slow
def test_known_templates_are_far_below_the_limits() -> None:
    for name, path in template_paths().items():
        source = path.read_text()
        environment = SandboxedTemplates()
        tokens = [kind for _, kind, _ in environment.lexer.tokeniter(source, None) if kind != "whitespace"]
        python = environment.python(environment.parse(source))
        sizes = (len(source) / MAX_SOURCE, len(tokens) / MAX_TOKENS, len(python) / MAX_PYTHON)
        assert max(sizes) < 1 / HEADROOM, (name, sizes)


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("x" * (MAX_SOURCE + 1), f"at most {MAX_SOURCE} are allowed"),
        ("{# " + "x" * MAX_SOURCE + " #}", f"{MAX_SOURCE + 6} characters"),
        ("{{ a }}" * (MAX_TOKENS // 3 + 1), f"more than {MAX_TOKENS} tokens"),
        ("{{ [" + "1," * (MAX_TOKENS // 2) + "] }}", f"more than {MAX_TOKENS} tokens"),
        ("{{ {" + "1:1," * (MAX_TOKENS // 4) + "} }}", f"more than {MAX_TOKENS} tokens"),
        ("{{ 1" + "~a" * (MAX_TOKENS // 2) + " }}", f"more than {MAX_TOKENS} tokens"),
        ("{% set a = 1 %}" * (MAX_TOKENS // 6 + 1), f"more than {MAX_TOKENS} tokens"),
        ("{% if a %}" + "{% elif b %}" * (MAX_TOKENS // 4) + "{% endif %}", f"more than {MAX_TOKENS} tokens"),
        # each of these writes all set variables
        (SETS + "{% include 'x' %}" * 800, f"more than {MAX_PYTHON} characters of Python"),
        (
            SETS + "".join(f"{{% block b{k} scoped %}}{{% endblock %}}" for k in range(400)),
            f"more than {MAX_PYTHON} characters of Python",
        ),
    ],
)
def test_a_source_above_a_limit_is_rejected(source: str, limit: str) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_source(source)
    assert limit in problem(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "x" * MAX_SOURCE,
        "{% raw %}" + "{{ a }}" * 18_000 + "{% endraw %}",
        "{#" + "{{ a }}" * 18_000 + "#}",
        "\n" * MAX_SOURCE,
        "{{ '" + "x" * (MAX_SOURCE - 20) + "' }}",
        "{{ a }}" * (MAX_TOKENS // 3),
        "{% for a in b %}{% endfor %}" * (MAX_TOKENS // 9),
        "{{ 9 ** 9 ** 9 }}{{ 'a' * 10 ** 9 }}{{ [0] * 10 ** 9 }}{{ 'a' | center(10 ** 9) }}",
    ],
    ids=range(8),
)
def test_a_source_at_the_limits_is_compiled(source: str) -> None:
    """Constants are not evaluated during compilation."""
    assert compile_source(source).code


def test_variables_roles_and_calls_are_found_in_a_source() -> None:
    compiled = compile_source(
        "{% for m in messages %}{% if m.role in ['a', 'b'] %}{{ m.tool_calls }}{{ x }}{% endif %}{% endfor %}"
    )
    assert compiled.variables == {"messages", "x"}
    assert compiled.roles == {"a", "b"}
    assert compiled.mentions_tool_calls


@pytest.mark.parametrize(
    ("error", "expected"),
    [(MemoryError(), "memory"), (RecursionError(), "nests"), (ValueError("x" * 5000), "ValueError: xxx")],
)
def test_a_problem_is_described_in_a_short_message(error: BaseException, expected: str) -> None:
    assert expected in problem(error)
    assert len(problem(error)) < 1100
