"""Stored items from every value that the `openai` package's types of input items allow."""

import json
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseInputItemParam
from typing_extensions import is_typeddict

from openai_server.access.caps import Caps
from openai_server.api.responses.input import fields
from openai_server.api.responses.request import parse
from openai_server.api.schemas import load
from openai_server.core.errors import APIError
from tests.examples import examples
from tests.openai_server.api.responses.bodies import user
from tests.openai_server.api.responses.input.test_fields import types as types_of
from tests.openai_server.api.responses.input.test_fields import variants
from tests.openai_server.api.responses.input.test_stored import check_meaning

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=3) | st.sampled_from(["a", "b"]),
    int: st.integers(0, 9),
    float: st.floats(0, 1),
    bool: st.booleans(),
    type(None): st.none(),
    object: st.none() | st.booleans() | st.integers(0, 9) | st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
}
NOT_STORED = ("CompactionTrigger", "ItemReference")


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Returns the values of a type, which may be a TypedDict."""
    if hint in SCALARS:
        return SCALARS[hint]
    if is_typeddict(hint):
        hints = get_type_hints(hint, include_extras=True)
        required = {name for name, inner in hints.items() if get_origin(inner) is Required}
        return st.fixed_dictionaries(
            {name: st.deferred(lambda inner=hints[name]: values(inner)) for name in required},  # type: ignore[misc]
            optional={
                name: st.deferred(lambda inner=inner: values(inner))  # type: ignore[misc]
                for name, inner in hints.items()
                if name not in required
            },
        )
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*(values(option) for option in arguments if not is_media(option)))
    if origin in (Annotated, Required, NotRequired):
        return values(arguments[0])
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    assert origin in (list, Iterable, Sequence), hint
    return st.lists(values(arguments[0]), max_size=2)


def is_media(typed: Any) -> bool:
    """Returns whether it is a part that this server refuses."""
    return is_typeddict(typed) and "type" in get_type_hints(typed) and set(types_of(typed)) <= set(fields.MEDIA_PARTS)


@pytest.mark.parametrize(
    "typed", [typed for typed in variants(ResponseInputItemParam) if typed.__name__ not in NOT_STORED]
)
def test_any_item_of_the_type_keeps_its_meaning(typed: Any) -> None:
    n_accepted = 0

    @settings(max_examples=examples(50))
    @given(values(typed))
    def check(item: dict[str, Any]) -> None:
        nonlocal n_accepted
        body = json.dumps({"input": [item, user("end")]}).encode()
        try:
            parse(body, Caps())
        except APIError:
            return
        n_accepted += 1
        check_meaning(load(body)["input"][:-1])

    check()
    assert n_accepted
