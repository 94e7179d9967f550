"""Malicious templates are rejected in limited time and memory."""

import itertools
import tracemalloc
from collections.abc import Iterator
from datetime import datetime

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import Message, UserMessage
from openai_server.prompting.limits import CURRENT, Budget, LimitExceeded
from openai_server.prompting.template import Templates

pytestmark = pytest.mark.slow

CHARACTERS = 10_000
"""Limit of the prompt; intermediate values may have sixteen times as many."""
MEMORY = 16 << 20
"""Bytes; far above the limits and the compiler's use, far below what the attacks would allocate."""


def render(source: str, content: str = "a") -> str:
    ticking = itertools.count()
    messages: list[Message] = [UserMessage(content)]
    # a clock that counts its calls, so that the tests do not depend on the machine
    return Templates(
        clock=lambda: next(ticking) / 100, now=lambda: datetime(2026, 1, 1), seconds=1, characters=CHARACTERS
    ).render(source, messages, {})


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


def growing(step: str, start: str = "'aaaaaaaaaaaaaaaa'") -> str:
    """Returns a template that applies `step` to x a hundred times."""
    return "{% set ns = namespace(x=" + start + ") %}{% for i in range(100) %}{% set ns.x = " + step + " %}{% endfor %}"


BILLION_LAUGHS = growing("[ns.x, ns.x]", "['a']")
FOREVER = "{% for i in range(99999) %}{% for i in range(99999) %}%s{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        FOREVER.replace("%s", ""),
        "{% for i in range(99999) %}{% for i in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) recursive %}{{ loop(range(99999)) if loop.depth < 9 }}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        FOREVER.replace("%s", "{% set x = range(99999) | list %}"),
        FOREVER.replace("%s", "{% if messages == messages %}{% endif %}"),
        "{% for i in range(99999) %}{{ range(99999) | map('string') | list | length }}{% endfor %}",
        "{% for i in range(99999) %}{{ range(99999) | select('even') | list | length }}{% endfor %}",
        "{% for i in range(99999) %}{{ range(99999) | sort | last }}{% endfor %}",
    ],
)
def test_endless_work_is_stopped(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"took longer than|created more than"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        growing("ns.x ~ ns.x"),
        growing("ns.x + ns.x"),
        growing("ns.x * 16"),
        growing("16 * ns.x"),
        growing("ns.x + ns.x", "[1, 2, 3]"),
        growing("ns.x * 16", "[1, 2, 3]"),
        growing("ns.x + ns.x", "(1, 2)"),
        growing("ns.x | replace('a', 'aaaaaaaa')"),
        growing("ns.x.replace('a', ns.x)"),
        growing("ns.x.replace('', ns.x)"),
        growing("ns.x.join(ns.x)"),
        growing("ns.x | join(ns.x)"),
        growing("[ns.x, ns.x] | join"),
        growing("'%s%s' % (ns.x, ns.x)"),
        growing("'%(a)s%(a)s' % {'a': ns.x}"),
        growing("'%s%s' | format(ns.x, ns.x)"),
        growing("'{0}{0}'.format(ns.x)"),
        growing("'{0!r}{0!r}'.format(ns.x)"),
        growing("(ns.x ~ '\n' ~ ns.x) | indent(ns.x)"),
        growing("ns.x | tojson | tojson"),
        growing("[ns.x, ns.x] | string"),
        growing("[ns.x, ns.x] | tojson"),
        growing("[ns.x, ns.x] | upper"),
        growing("ns.x + [ns.x]", "[1]") + "{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = ns.x + ['%05d' % i] %}{% endfor %}",
        "{% macro f() %}{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}{% endmacro %}{{ f() }}",
        "{% set x %}{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}{% endset %}",
        "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
        "{% macro f(n) %}{% if n %}{% set x %}{{ f(n - 1) }}{% endset %}{{ x ~ x }}{% else %}aaaa{% endif %}"
        "{% endmacro %}{{ f(50) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a'.center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.rjust(1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ 'a\nb' | indent(1000000000) }}",
        "{{ [1] | batch(1000000000, 0) | list }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=1000000000) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ [[1]] | tojson(indent=1000000000) }}",
        "{{ [[1]] | tojson(indent='" + " " * 1000 + "') }}",
        "{{ range(9999) | list | tojson(separators=('" + "," * 9999 + "', ':')) }}",
        BILLION_LAUGHS + "{{ ns.x }}",
        BILLION_LAUGHS + "{{ ns.x ~ '' }}",
        BILLION_LAUGHS + "{{ ns.x | string }}",
        BILLION_LAUGHS + "{{ ns.x | tojson }}",
        BILLION_LAUGHS + "{{ ns.x | tojson(indent=1) }}",
        BILLION_LAUGHS + "{{ '%s' % [ns.x] }}",
        BILLION_LAUGHS + "{{ '{}'.format(ns.x) }}",
        BILLION_LAUGHS + "{{ [ns.x] == [[ns.x]] }}",
        BILLION_LAUGHS + "{{ ns.x is eq([]) }}",
        BILLION_LAUGHS + "{{ 1 in ns.x }}",
        BILLION_LAUGHS + "{{ [ns.x] | unique | list }}",
        BILLION_LAUGHS + "{{ ns.x.index(1) }}",
        growing("{'a': ns.x, 'b': ns.x}") + "{{ ns.x }}",
        growing("(ns.x, ns.x)") + "{{ {ns.x: 1} }}",
        growing("(ns.x, ns.x)") + "{{ [ns.x] | unique | list }}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
        "{{ 10 ** 1000000000 }}",
        "{{ 2 ** (2 ** 100) }}",
        growing("ns.x * ns.x", "99999999"),
        "{{ 5 | round(-1000000000) }}",
        "{{ 1.5 | round(1000000000) }}",
    ],
)
def test_large_values_are_rejected(source: str) -> None:
    with pytest.raises(InvalidRequest):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content.replace('a', messages[0].content) }}",
        "{{ messages[0].content | replace('a', messages[0].content) }}",
        "{{ messages[0].content ~ messages[0].content }}",
        "{{ messages[0].content | list }}",
        "{{ messages[0].content.split('a') }}",
    ],
)
def test_limits_do_not_grow_with_the_message(source: str) -> None:
    with pytest.raises(InvalidRequest):
        render(source, "a" * 100_000)


@pytest.mark.parametrize(
    "work",
    [
        "messages[0].content.split('a')",
        "messages[0].content.split()",
        "messages[0].content.rsplit('a')",
        "messages[0].content.splitlines()",
        "messages[0].content | list",
        "messages[0].content | sort",
    ],
)
def test_a_list_is_counted_before_it_is_built(work: str) -> None:
    with pytest.raises(InvalidRequest, match="characters"):
        render("{{ (" + work + ") | length }}", "a\n" * 1_000_000)


def test_a_limited_split_is_counted_by_its_limit() -> None:
    assert render("{{ messages[0].content.split('a', 1) | length }}", "a" * 20_000) == "2"
    assert render("{{ messages[0].content.rsplit('a')[-1] }}", "a" * 4_000) == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f() %}{{ caller() }}{% call f() %}{{ f() }}{% endcall %}{% endmacro %}{% call f() %}{% endcall %}",
        "{% block x %}{{ self.x() }}{% endblock %}",
        growing("[ns.x]", "[]").replace("100", "5000") + "{{ ns.x }}",
        "{{ " + "-" * 5000 + "1 }}",
        "{% if a %}" * 150 + "{% endif %}" * 150,
    ],
)
def test_deep_recursion_is_rejected(source: str) -> None:
    with pytest.raises(InvalidRequest):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'].__base__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ strftime_now.__func__.__globals__.x }}",
        "{{ range.__init__.__globals__.x }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ namespace.__init__.__globals__.x }}",
        "{{ '{0.__class__.__mro__}'.format('') ~ '{0.__class__}'.format('').x.y }}",
        "{{ ('a' | attr('__class__')).__mro__ }}",
        "{{ messages | map(attribute='__class__') | map(attribute='__mro__') | first | first }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ messages[0].clear() }}",
        "{{ dict.fromkeys(range(9), 1) }}",
        "{{ (5).to_bytes(1000000000, 'big') }}",
        "{{ 'a'.format_map({}) }}",
        "{{ 'a'.expandtabs(1000000000) }}",
        "{{ 'a'.translate({}) }}",
        "{{ 'a'.encode().hex() }}",
        "{{ lipsum() }}",
        "{{ cycler(1) }}",
        "{{ environment.x }}",
        "{{ context.x }}",
        "{{ guard_loop(messages) }}",
    ],
)
def test_the_sandbox_rejects_unsafe_access(source: str) -> None:
    with pytest.raises(InvalidRequest):
        render(source)


# ---- The budget itself


def test_a_shared_value_is_counted_at_each_use() -> None:
    budget = Budget(lambda: 0.0, 1, 10**9)
    inner = ["x" * 100]
    assert budget.weigh([inner, inner]) > 2 * budget.weigh(inner) >= 200
    assert budget.weigh({"k": "x" * 50}) >= 51


def test_the_clock_is_read_at_intervals() -> None:
    ticks: list[int] = []
    budget = Budget(lambda: float(len(ticks)), 0.5, 10**9)
    budget.tick(100)
    ticks.append(1)
    with pytest.raises(LimitExceeded, match=r"0\.5 s"):
        budget.tick(1000)


def test_spending_more_characters_than_the_budget_raises() -> None:
    budget = Budget(lambda: 0.0, 1, 10)
    budget.spend(10)
    with pytest.raises(LimitExceeded, match="10 characters"):
        budget.spend(1)


def test_the_budget_is_removed_after_rendering() -> None:
    render("x")
    with pytest.raises(InvalidRequest):
        render("{{ 1 / 0 }}")
    with pytest.raises(LookupError):
        CURRENT.get()
