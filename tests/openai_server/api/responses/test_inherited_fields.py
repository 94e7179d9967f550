"""Each field that the body inherits from those of chats and completions changes the turn."""

from typing import Any

import pytest

from openai_server.api.responses.input.fields import RESPONSES_FIELDS
from openai_server.api.schemas import Request
from tests.openai_server.api.responses.bodies import parsed, rejection

INHERITED = sorted((RESPONSES_FIELDS.mapped & set(Request.__struct_fields__)) - {"stream", "stream_options"})
"""The stream's fields are not part of the turn."""
SCHEMA = {"type": "object"}
VALUES: dict[str, Any] = {
    "model": "m",
    "logit_bias": {"5": 1},
    "stop": ["a"],
    "stop_token_ids": [1],
    "dry_sequence_breakers": ["a"],
    **dict.fromkeys(("json_schema", "guided_json"), SCHEMA),
    **dict.fromkeys(("grammar", "ebnf", "guided_grammar"), 'root ::= "a"'),
    **dict.fromkeys(("regex", "guided_regex"), "a"),
    "guided_choice": ["a"],
    "structured_outputs": {"regex": "a"},
    "guided_whitespace_pattern": " ",
    **dict.fromkeys(("ignore_eos", "skip_special_tokens"), True),
}
"""Values of fields that are not numbers."""


@pytest.mark.parametrize("field", INHERITED)
def test_an_inherited_field_changes_the_turn(field: str) -> None:
    other = {"guided_json": SCHEMA} if field == "guided_whitespace_pattern" else {}
    assert parsed(**other, **{field: VALUES.get(field, 1)}).turn != parsed(**other).turn


@pytest.mark.parametrize("field", ["return_progress", "timings_per_token"])
def test_progress_and_times_are_refused(field: str) -> None:
    parsed(**{field: False})
    rejection(field, **{field: True})
