import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.api.schemas import parse_chat, parse_completion
from openai_server.backends.dialects import inputs
from openai_server.backends.dialects.anyserve import encode
from openai_server.core.errors import UnsupportedParameter
from protos import contract, tensors


def tensors_of(body: dict[str, Any], **options: Any) -> dict[str, list[Any]]:
    turn = parse_completion(json.dumps({"prompt": "é", **body}).encode()).turn()
    message = encode.infer_request(turn, turn.prompts[0], model="m", request_id="id", **options)
    assert (message.model_name, message.id) == ("m", "id")
    return {name: list(tensor.elements) for name, tensor in tensors.read_inputs(message).items()}


def test_only_set_fields_are_sent() -> None:
    assert tensors_of({}) == {"prompt": ["é".encode()], "max_tokens": [16]}
    turn = parse_chat(b'{"messages": [{"role": "user", "content": "x"}]}').turn()
    message = encode.infer_request(turn, "p", model="m", request_id="id")
    assert list(tensors.read_inputs(message)) == ["prompt"]


def test_tensors_have_the_shapes_and_datatypes_of_the_contract() -> None:
    guides = ({"json_schema": {"type": "object"}}, {"regex": "a"}, {"grammar": "root ::= []"}, {"ebnf": "start: []"})
    specs = {spec.name: spec for spec in contract.INPUTS}
    names = set()
    for guide in guides:
        turn = parse_completion(json.dumps({"prompt": "x", **EVERYTHING, **guide}).encode()).turn()
        message = encode.infer_request(turn, [1, 2], model="m", request_id="id")
        for tensor in message.inputs:
            assert tensor.datatype == specs[tensor.name].datatype
            assert specs[tensor.name].accepts_shape(tuple(tensor.shape))
        names |= {tensor.name for tensor in message.inputs}
    assert names == set(specs) - {"prompt"} - {spec.name for spec in inputs.SERVER_INPUTS}


EVERYTHING: dict[str, Any] = {
    "temperature": 1,
    "top_p": 1,
    "top_k": 1,
    "min_p": 1,
    "typical_p": 1,
    "top_n_sigma": 1,
    "presence_penalty": 1,
    "frequency_penalty": 1,
    "repetition_penalty": 1,
    "repeat_last_n": 1,
    "xtc_probability": 1,
    "xtc_threshold": 1,
    "dry_multiplier": 1,
    "dry_base": 1,
    "dry_allowed_length": 1,
    "dry_penalty_last_n": 1,
    "dry_sequence_breakers": ["a"],
    "mirostat": 1,
    "mirostat_tau": 1,
    "mirostat_eta": 1,
    "logit_bias": {"5": -1, "7": 2.5},
    "stop": ["a"],
    "stop_token_ids": [1],
    "min_tokens": 1,
    "ignore_eos": True,
    "skip_special_tokens": False,
    "priority": 1,
    "logprobs": 1,
    "echo": True,
    "suffix": "x",
    "seed": 1,
    "n": 1,
    "max_tokens": 1,
    "timings_per_token": True,
    "return_progress": True,
    "stream": True,
}


def test_a_logit_bias_becomes_two_tensors() -> None:
    sent_tensors = tensors_of({"logit_bias": {"5": -1, "7": 2.5}})
    assert (sent_tensors["logit_bias_token_ids"], sent_tensors["logit_bias"]) == ([5, 7], [-1, 2.5])


@pytest.mark.parametrize("format", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "n"}}])
def test_json_formats_without_a_schema_allow_any_object(format: dict[str, Any]) -> None:
    assert tensors_of({"response_format": format})["json_schema"] == [b'{"type":"object"}']


def test_the_text_format_sends_no_schema() -> None:
    assert "json_schema" not in tensors_of({"response_format": {"type": "text"}})


def test_best_of_sets_the_number_of_choices() -> None:
    assert tensors_of({"n": 2, "best_of": 5})["n"] == [5]
    assert tensors_of({"best_of": 3})["n"] == [3]


def test_server_inputs_override_those_of_the_client() -> None:
    sent_tensors = tensors_of({"skip_special_tokens": True}, server_inputs={contract.SKIP_SPECIAL_TOKENS: [False]})
    assert sent_tensors["skip_special_tokens"] == [False]


@pytest.mark.parametrize(("value", "sent"), [(-1, 0), (0, 0), (5, 5)])
def test_a_negative_top_k_is_sent_as_zero(value: int, sent: int) -> None:
    assert tensors_of({"top_k": value})["top_k"] == [sent]


@pytest.mark.parametrize(("value", "sent"), [("a", [b"a"]), (["a", "b"], [b"a", b"b"])])
def test_a_stop_string_is_sent_as_a_list(value: object, sent: list[bytes]) -> None:
    assert tensors_of({"stop": value})["stop"] == sent


def test_an_empty_list_of_stop_strings_is_not_sent() -> None:
    assert "stop" not in tensors_of({"stop": []})


def test_a_field_without_an_input_of_the_backend_is_rejected_unless_it_has_no_effect() -> None:
    input_names = {"prompt"}
    assert tensors_of({"temperature": 1, "top_k": -1, "n": 1}, input_names=input_names) == {"prompt": ["é".encode()]}
    for field, value in (("temperature", 0), ("seed", 1), ("stop", "x"), ("max_tokens", 16)):
        with pytest.raises(UnsupportedParameter) as caught:
            tensors_of({field: value}, input_names=input_names)
        assert caught.value.param == field


def test_every_tensor_has_a_field_for_error_messages() -> None:
    turn = parse_chat(b'{"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 1}').turn()
    params = inputs.fields(turn)
    assert set(params) == {spec.name for spec in contract.INPUTS}
    assert (params["prompt"], params["max_tokens"]) == ("messages", "max_completion_tokens")


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_seed_is_folded_to_32_bits_and_small_seeds_are_unchanged(seed: int) -> None:
    folded = inputs.fold_seed(seed)
    assert -(2**31) <= folded < 2**31
    if -(2**31) <= seed < 2**31:
        assert folded == seed


def test_folding_uses_both_halves_of_a_seed() -> None:
    assert len({inputs.fold_seed(seed) for seed in (1 << 32, 2 << 32, (1 << 32) + 1, -(1 << 40))}) == 4
