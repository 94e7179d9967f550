"""Fields of a turn that a model that takes chats can't get. PURE."""

from msgspec.structs import asdict

from openai_server.backends.dialects.inputs import INPUT_ROWS, is_omittable, unsupported, values_of
from openai_server.core.turn import Turn

_NO_OUTPUT = ("top_logprobs", "timings", "progress")
"""Fields that need an output which such models don't have."""
_HINTS = {"enable_thinking": "thinking_is_hint", "reasoning_effort": "effort_is_hint"}


def check_body(turn: Turn, model: str) -> None:
    """Raises UnsupportedParameter for a field that the answer couldn't express."""
    for field in _NO_OUTPUT:
        if (value := getattr(turn, field)) is not None and value is not False:
            raise unsupported(turn.name(field), model)


def check_without_body(turn: Turn, model: str) -> None:
    """Raises UnsupportedParameter for a field that only the body could carry."""
    if turn.tool_use is not None:
        raise unsupported(turn.name("tools"), model)
    for name, value in asdict(turn.template).items():
        is_hint = getattr(turn, _HINTS[name]) and value != "none" if name in _HINTS else False
        if value is not None and not is_hint:
            raise unsupported(turn.name(name), model)
    if turn.guide:
        raise unsupported(turn.guide.field, model)
    if turn.reasoning_limit is not None:
        raise unsupported(turn.name("reasoning_limit"), model)
    for row, value in zip(INPUT_ROWS, values_of(turn), strict=True):
        if value is None:
            continue
        elements = row.elements(value) if row.elements else (value,)
        if elements and not is_omittable(row, elements, turn):
            raise unsupported(turn.name(row.field), model)
