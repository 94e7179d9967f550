"""Limits on the lists and free-form values of a `/v1/responses` body. PURE.

They are checked before the conversion, so that a refused body costs no more than its decoding.
"""

from collections.abc import Mapping
from typing import Any

from openai_server.api.responses.input.body import MAX_INPUT_ITEMS
from openai_server.api.schemas import bounds
from openai_server.api.schemas.extras import CLIENT_FIELDS
from openai_server.core.errors import AboveLimit

_FREE_FORM = (
    *("tools", "text", "json_schema", "guided_json", "structured_outputs", "chat_template_kwargs"),
    *CLIENT_FIELDS,
)
_LISTS = ("content", "output", "summary")
"""Keys of an item with a list of parts."""
_SMALLEST_PART = 20
"""Bytes."""


def check_limits(payload: Mapping[str, Any], body_size: int) -> None:
    """Raises AboveLimit. Accepts values of any type."""
    bounds.check_free_form(payload, body_size, _FREE_FORM)
    check_items("input", payload.get("input"), body_size)


def check_items(field: str, items: object, body_size: int, max_items: int = MAX_INPUT_ITEMS) -> None:
    """`field` has the items. Raises AboveLimit. Accepts values of any type."""
    if not isinstance(items, list):
        return
    if len(items) > max_items:
        raise AboveLimit(field, f"has too many items, at most {max_items}", kind="array")
    n_parts = 0
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        if item.get("type") in ("additional_tools", "tool_search_output", "configuration_update"):
            named = {f"{field}[{i}].{key}": item.get(key) for key in ("tools", "text")}
            bounds.check_free_form(named, body_size, tuple(named))
        if body_size < _SMALLEST_PART * bounds.MAX_PARTS:
            continue
        for key in _LISTS:
            if isinstance(parts := item.get(key), list):
                n_parts += len(parts)
                if n_parts > bounds.MAX_PARTS:
                    raise AboveLimit(
                        f"{field}[{i}].{key}",
                        f"has too many content parts in all items together, at most {bounds.MAX_PARTS}",
                        kind="array",
                    )
