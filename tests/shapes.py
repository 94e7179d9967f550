"""Checks responses strictly against the types of the `openai` package, which accept unknown keys by themselves."""

from collections.abc import Collection
from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

EXTENSIONS = frozenset({"reasoning_content"})
"""Keys of ours that other servers have added too."""


def exact(shape: type[M], value: Any, extensions: Collection[str] = EXTENSIONS) -> M:
    """Returns `value`, JSON or an object of the SDK, as `shape`. Fails for a wrong type, a missing key or an unknown
    one."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    model = shape.model_validate(value, strict=True)
    _check(model, extensions, shape.__name__)
    return model


def _check(part: Any, extensions: Collection[str], path: str) -> None:
    if isinstance(part, BaseModel):
        unknown = set(part.model_extra or ()) - set(extensions)
        assert not unknown, f"{path} has {sorted(unknown)}"
        for name in part.model_fields_set:
            _check(getattr(part, name), extensions, f"{path}.{name}")
    elif isinstance(part, list):
        for i, item in enumerate(part):
            _check(item, extensions, f"{path}[{i}]")
    elif isinstance(part, dict):
        for name, item in part.items():
            _check(item, extensions, f"{path}.{name}")
