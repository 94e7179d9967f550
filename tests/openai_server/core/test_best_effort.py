"""Schemas that the backend refuses are left out, where the client doesn't demand them."""

from openai_server.core.best_effort import MAX_SINGLE, for_grammar, without_refused_schema, without_schemas
from openai_server.core.errors import BackendError
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse
from openai_server.core.turn import Sampling, Turn
from protos import contract

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def turn(*enforcements: str) -> Turn:
    tools = [Tool(FunctionDefinition(f"f{i}", None, SCHEMA), enforcement=name) for i, name in enumerate(enforcements)]  # type: ignore[arg-type]
    return Turn(sampling=Sampling(), names={}, tools=tools, tool_use=ToolUse(tools))


def refusal(part: str, tensor: str = "lark") -> BackendError:
    return BackendError("INVALID_ARGUMENT", "no", {contract.ERROR_TENSOR: tensor, contract.ERROR_PART: part})


def enforcements(turn: Turn | None) -> list[str]:
    assert turn is not None
    assert turn.tool_use is not None
    return [tool.enforcement for tool in turn.tool_use.tools]


def test_the_schema_that_the_error_names_is_left_out() -> None:
    both = turn("best_effort", "best_effort", "demanded")
    assert enforcements(without_refused_schema(both, refusal("function f1"))) == ["best_effort", "none", "demanded"]
    assert enforcements(without_refused_schema(both, refusal(""))) == ["none", "none", "demanded"]
    assert enforcements(both) == ["best_effort", "best_effort", "demanded"]


def test_other_errors_change_nothing() -> None:
    both = turn("best_effort", "demanded", "none")
    for error in (
        refusal("function f1"),
        refusal("function f2"),
        refusal("function g"),
        refusal("guide"),
        refusal("function f0", tensor="prompt"),
    ):
        assert without_refused_schema(both, error) is None
    assert without_refused_schema(turn("demanded"), refusal("")) is None
    assert without_refused_schema(Turn(sampling=Sampling(), names={}), refusal("")) is None


def test_after_a_few_schemas_all_others_are_left_out() -> None:
    many = turn(*["none"] * MAX_SINGLE, "best_effort", "best_effort", "demanded")
    changed = without_refused_schema(many, refusal(f"function f{MAX_SINGLE}"))
    assert enforcements(changed) == ["none"] * (MAX_SINGLE + 2) + ["demanded"]
    assert without_schemas(turn("demanded", "none")) is None


def test_the_grammar_has_any_object_in_place_of_a_schema() -> None:
    use = turn("none", "demanded").tool_use
    assert use is not None
    first, second = for_grammar(use).tools
    assert first.function.parameters == {"type": "object", "additionalProperties": True}
    assert second.function.parameters == SCHEMA
    assert use.tools[0].function.parameters == SCHEMA, "the model reads the schema"
