import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.api.schemas import parse_chat, parse_completion
from openai_server.backends.dialects.anyserve import encode
from openai_server.core.errors import UnsupportedParameter
from protos import contract, tensors


def tensors_of(body: dict[str, Any], **how: Any) -> dict[str, list[Any]]:
    turn = parse_completion(json.dumps({"prompt": "é", **body}).encode()).turn()
    message = encode.infer_request(turn, turn.prompts[0], model="m", request_id="id", **how)
    assert (message.model_name, message.id) == ("m", "id")
    return {name: list(tensor.elements) for name, tensor in tensors.read_inputs(message).items()}


def test_only_what_was_set_is_sent() -> None:
    assert tensors_of({}) == {"prompt": ["é".encode()], "max_tokens": [16]}
    turn = parse_chat(b'{"messages": [{"role": "user", "content": "x"}]}').turn()
    message = encode.infer_request(turn, "p", model="m", request_id="id")
    assert list(tensors.read_inputs(message)) == ["prompt"]


def test_tensors_are_those_of_the_contract() -> None:
    guides = ({"json_schema": {"type": "object"}}, {"regex": "a"}, {"grammar": "root ::= []"})
    specs = {spec.name: spec for spec in contract.INPUTS}
    sent = set()
    for guide in guides:
        turn = parse_completion(json.dumps({"prompt": "x", **EVERYTHING, **guide}).encode()).turn()
        message = encode.infer_request(turn, [1, 2], model="m", request_id="id")
        for tensor in message.inputs:
            assert tensor.datatype == specs[tensor.name].datatype
            assert specs[tensor.name].accepts_shape(tuple(tensor.shape))
        sent |= {tensor.name for tensor in message.inputs}
    assert sent == set(specs) - {"prompt"} - {spec.name for spec in encode.SERVER_INPUTS}


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
}


def test_a_bias_is_two_tensors() -> None:
    sent = tensors_of({"logit_bias": {"5": -1, "7": 2.5}})
    assert (sent["logit_bias_token_ids"], sent["logit_bias"]) == ([5, 7], [-1, 2.5])


@pytest.mark.parametrize("format", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "n"}}])
def test_any_object_is_a_schema_too(format: dict[str, Any]) -> None:
    assert tensors_of({"response_format": format})["json_schema"] == [b'{"type":"object"}']


def test_text_is_no_format() -> None:
    assert "json_schema" not in tensors_of({"response_format": {"type": "text"}})


def test_who_wants_the_best_gets_all_generated() -> None:
    assert tensors_of({"n": 2, "best_of": 5})["n"] == [5]
    assert tensors_of({"best_of": 3})["n"] == [3]


def test_what_this_server_asks_for_goes_before_what_the_client_says() -> None:
    sent = tensors_of({"skip_special_tokens": True}, server_inputs={contract.SKIP_SPECIAL_TOKENS: [False]})
    assert sent["skip_special_tokens"] == [False]


@pytest.mark.parametrize(("given", "sent"), [(-1, 0), (0, 0), (5, 5)])
def test_top_k(given: int, sent: int) -> None:
    assert tensors_of({"top_k": given})["top_k"] == [sent]


@pytest.mark.parametrize(("given", "sent"), [("a", [b"a"]), (["a", "b"], [b"a", b"b"])])
def test_stop(given: object, sent: list[bytes]) -> None:
    assert tensors_of({"stop": given})["stop"] == sent


def test_no_stop_strings_are_no_tensor() -> None:
    assert "stop" not in tensors_of({"stop": []})


def test_what_the_backend_does_not_take() -> None:
    input_names = {"prompt"}
    assert tensors_of({"temperature": 1, "top_k": -1, "n": 1}, input_names=input_names) == {"prompt": ["é".encode()]}
    for field, value in (("temperature", 0), ("seed", 1), ("stop", "x"), ("max_tokens", 16)):
        with pytest.raises(UnsupportedParameter) as caught:
            tensors_of({field: value}, input_names=input_names)
        assert caught.value.param == field


def test_every_tensor_has_a_field_to_name() -> None:
    turn = parse_chat(b'{"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 1}').turn()
    params = encode.fields(turn)
    assert set(params) == {spec.name for spec in contract.INPUTS}
    assert (params["prompt"], params["max_tokens"]) == ("messages", "max_completion_tokens")


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_seed_fits_and_small_ones_stay(seed: int) -> None:
    folded = encode.fold_seed(seed)
    assert -(2**31) <= folded < 2**31
    if -(2**31) <= seed < 2**31:
        assert folded == seed


def test_both_halves_of_a_seed_count() -> None:
    assert len({encode.fold_seed(seed) for seed in (1 << 32, 2 << 32, (1 << 32) + 1, -(1 << 40))}) == 4
