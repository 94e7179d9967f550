from typing import Any

import pytest

from openai_server.api.models.anthropic import DEFAULT_LIMIT, AnthropicModels, anthropic_model, page
from openai_server.core.errors import InvalidRequest

MODELS = [anthropic_model(f"m{i}", f"m{i}", 0, None) for i in range(1, 26)]


def ids(**query: str) -> tuple[list[int], bool]:
    """Returns the numbers of the models on a page, and whether there are more."""
    answer = page(MODELS, query)
    numbers = [int(model.id[1:]) for model in answer.data]
    assert (answer.first_id, answer.last_id) == ((f"m{numbers[0]}", f"m{numbers[-1]}") if numbers else (None, None))
    return numbers, answer.has_more


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, (list(range(1, DEFAULT_LIMIT + 1)), True)),
        ({"limit": "1000"}, (list(range(1, 26)), False)),
        ({"limit": "25"}, (list(range(1, 26)), False)),
        ({"limit": "2", "after_id": "m3"}, ([4, 5], True)),
        ({"limit": "2", "after_id": "m23"}, ([24, 25], False)),
        ({"after_id": "m25"}, ([], False)),
        ({"limit": "2", "before_id": "m5"}, ([3, 4], True)),
        ({"limit": "2", "before_id": "m3"}, ([1, 2], False)),
        ({"before_id": "m1"}, ([], False)),
        ({"limit": "", "after_id": "", "before_id": ""}, (list(range(1, 21)), True)),
        ({"lifecycle": "active,retired", "limit": "1"}, ([1], True)),
        ({"lifecycle[]": "retired"}, ([], False)),
    ],
)
def test_pages(query: dict[str, str], expected: Any) -> None:
    assert ids(**query) == expected


def test_all_pages_together_are_all_models() -> None:
    found: list[int] = []
    query = {"limit": "7"}
    while True:
        numbers, has_more = ids(**query)
        found += numbers
        if not has_more:
            break
        query = {"limit": "7", "after_id": f"m{numbers[-1]}"}
    assert found == list(range(1, 26))


@pytest.mark.parametrize(
    ("param", "query"),
    [
        *(("limit", {"limit": value}) for value in ("0", "1001", "-1", "x", "1.5", "9" * 5000, "\u0661")),
        ("after_id", {"after_id": "none"}),
        ("before_id", {"before_id": "none"}),
        ("after_id", {"after_id": "m1", "before_id": "m2"}),
        ("lifecycle", {"lifecycle": "active,new"}),
    ],
)
def test_a_wrong_query_is_refused_by_its_field(param: str, query: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        page(MODELS, query)
    assert caught.value.param == param


def test_no_models_are_a_page() -> None:
    assert page([], {}) == AnthropicModels(data=[], has_more=False, first_id=None, last_id=None)


@pytest.mark.parametrize(
    ("created", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_700_000_000, "2023-11-14T22:13:20Z"), (1 << 53, "9999-12-31T23:59:59Z")],
)
def test_times_are_in_rfc_3339(created: int, text: str) -> None:
    model = anthropic_model("m", "m", created, 9)
    assert (model.created_at, model.max_input_tokens) == (text, 9)
