import json
import re
from collections.abc import Container
from typing import Any

import pytest

from openai_server.api.schemas import parse_completion
from openai_server.backends.dialects.anyserve.dialect import ANYSERVE
from openai_server.backends.dialects.base import ServerInputs, Target
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.errors import UnsupportedParameter
from protos import contract, tensors

NAMES = frozenset(spec.name for spec in contract.INPUTS)


def calls(
    input_names: Container[str] = NAMES, server_inputs: ServerInputs | None = None, **body: Any
) -> dict[str, dict[str, list[Any]]]:
    """Returns the inputs of each call, by its id."""
    turn = parse_completion(json.dumps({"prompt": "x", **body}).encode()).turn()
    messages = ANYSERVE.calls(turn, turn.prompts, Target("m", input_names, "id"), server_inputs or {}, streams=False)
    return {
        call.request.id: {name: list(tensor.elements) for name, tensor in tensors.read_inputs(call.request).items()}
        for call in messages
    }


def test_each_prompt_is_one_call() -> None:
    assert {id: inputs["prompt"] for id, inputs in calls(prompt=["a", "b"]).items()} == {"id-0": [b"a"], "id-1": [b"b"]}
    assert calls(prompt=[1, 2])["id"]["prompt_token_ids"] == [1, 2]


def test_best_of_requests_log_probabilities() -> None:
    assert calls(n=1, best_of=2)["id"]["logprobs"] == [0]
    assert calls(n=1, best_of=2, logprobs=3)["id"]["logprobs"] == [3]
    assert "logprobs" not in calls(n=2, best_of=2)["id"]


def test_a_schema_is_closed_and_lenient_unless_it_is_strict() -> None:
    schema = {"type": "object", "properties": {"a": {}}}
    inputs = calls(json_schema=schema)["id"]
    assert json.loads(inputs["json_schema"][0]) == {**schema, "additionalProperties": False}
    assert inputs["lenient_schema"] == [True]
    strict = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert "lenient_schema" not in calls(response_format=strict)["id"]
    assert "lenient_schema" not in calls(EVERYTHING, json_schema=schema)["id"], (
        "the backend may reject an input that the client did not set"
    )


def test_inputs_of_the_server_are_kept() -> None:
    inputs = calls(server_inputs={contract.SKIP_SPECIAL_TOKENS: [False]}, n=1, best_of=2, json_schema={})["id"]
    assert (inputs["skip_special_tokens"], inputs["logprobs"], inputs["json_schema"]) == ([False], [0], [b"{}"])


def test_a_parameter_without_an_input_of_the_backend_is_rejected() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        calls(NAMES - {"json_schema"}, response_format={"type": "json_object"})
    assert caught.value.param == "response_format"
    with pytest.raises(UnsupportedParameter) as caught:
        calls(NAMES - {"n"}, best_of=2, n=1)
    assert caught.value.param == "best_of"


def test_texts_to_choose_from_are_a_regular_expression() -> None:
    texts = ["yes", "", 'a.b|c(d)[e]{f}^g$h*i+j?k\\l#m&n-o~p/q\n"é']
    for inputs in calls(prompt=["a", "b"], guided_choice=texts).values():
        assert "lark" not in inputs
        pattern = re.compile(inputs["regex"][0].decode())
        assert all(pattern.fullmatch(text) for text in texts)
        assert not any(map(pattern.fullmatch, ("no", "yesyes", texts[-1].replace(".", "x"))))


def test_whitespace_in_json_needs_a_grammar() -> None:
    for pattern, options in (("[ ]?", {"whitespace_pattern": "[ ]?"}), ("", {})):
        inputs = calls(json_schema={"type": "object"}, guided_whitespace_pattern=pattern)["id"]
        assert not inputs.keys() & {"json_schema", "lenient_schema"}
        start, part, rule = inputs["lark"][0].decode().splitlines()
        assert (start, part) == ("start: r0", "// part: guide")
        assert json.loads(rule.removeprefix("r0: %json "))["x-guidance"] == {
            "whitespace_flexible": False,
            "item_separator": ",",
            "key_separator": ":",
            "lenient": True,
            **options,
        }


def test_lark_is_sent_as_it_is() -> None:
    assert calls(ebnf="start: x")["id"]["lark"] == [b"start: x"]


@pytest.mark.parametrize(
    ("missing", "param", "body"),
    [
        ("regex", "guided_choice", {"guided_choice": ["a"]}),
        ("regex", "guided_regex", {"guided_regex": "a"}),
        ("regex", "structured_outputs.choice", {"structured_outputs": {"choice": ["a"]}}),
        ("json_schema", "guided_json", {"guided_json": {}}),
        ("grammar", "ebnf", {"ebnf": "root ::= []"}),
        ("lark", "ebnf", {"ebnf": "start: []"}),
        ("lark", "guided_whitespace_pattern", {"guided_json": {}, "guided_whitespace_pattern": " "}),
        (
            "lark",
            "structured_outputs.disable_any_whitespace",
            {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}},
        ),
    ],
)
def test_a_guide_without_an_input_of_the_backend_is_refused_by_its_name(
    missing: str, param: str, body: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        calls(NAMES - {missing}, **body)
    assert caught.value.param == param
    assert calls(**body)


@pytest.mark.parametrize("field", ["guided_json", "guided_regex", "guided_choice", "guided_grammar"])
def test_a_guides_tensor_is_named_by_its_field(field: str) -> None:
    value = {"guided_json": {}, "guided_choice": ["a"]}.get(field, "start: x")
    turn = parse_completion(json.dumps({"prompt": "x", field: value}).encode()).turn()
    names = ANYSERVE.fields(turn)
    assert {names[spec.name] for spec in contract.GUIDES} == {names["guide"]} == {field}
