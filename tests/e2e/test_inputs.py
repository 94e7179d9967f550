"""Every sampling input of the worker on a real model: it has the effect that its name says, alone and in a busy
batch."""

import json
import math
import re
from typing import Any

import grpc
import pytest

from protos import contract
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.conftest import GEMMA3, SMOLLM2
from tests.e2e.messages import STORY, infer, outputs, text, trailers

Service = GRPCInferenceServiceStub
END_OF_TURN = 2


def greedy(service: Service, prompt: str | list[int] = STORY, max_tokens: int = 24, **inputs: Any) -> dict[str, Any]:
    return outputs(service.ModelInfer(infer(SMOLLM2, prompt, max_tokens=max_tokens, temperature=0.0, **inputs)))


def refusal(service: Service, **inputs: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        greedy(service, **inputs)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return refused.value


def blamed_tensor(error: grpc.RpcError) -> str:
    return trailers(error)[contract.ERROR_TENSOR]


# ---- Required and forbidden tokens


def test_a_bias_forces_or_forbids_a_token(service: Service) -> None:
    plain = greedy(service, max_tokens=1)["text"][0]
    first = greedy(service, max_tokens=1, logprobs=0)
    assert first["logprob_token"] == [plain]
    forced = greedy(service, max_tokens=3, logit_bias_token_ids=[4093], logit_bias=[100.0], logprobs=0)
    assert len(set(forced["logprob_token"])) == 1
    assert forced["logprob"][0] < -5, "log probabilities are computed before the bias"


def test_a_bias_for_an_unknown_token_is_refused(service: Service) -> None:
    assert blamed_tensor(refusal(service, logit_bias_token_ids=[10**6], logit_bias=[1.0])) == "logit_bias_token_ids"
    assert blamed_tensor(refusal(service, logit_bias_token_ids=[1, 2], logit_bias=[1.0])) == "logit_bias"
    assert blamed_tensor(refusal(service, stop_token_ids=[10**6])) == "stop_token_ids"


PROMPT_YES = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"


def test_the_end_can_be_delayed_or_ignored(service: Service) -> None:
    n_plain = greedy(service, PROMPT_YES, 60)["completion_tokens"][0]
    assert n_plain < 40
    later = greedy(service, PROMPT_YES, 60, min_tokens=n_plain + 5)
    assert n_plain + 5 <= later["completion_tokens"][0]
    never = greedy(service, PROMPT_YES, 60, ignore_eos=True)
    assert never["completion_tokens"] == [60]
    assert never["finish_reason"] == ["length"]


def test_a_stop_token_ends_the_choice_before_itself(exact_service: Service) -> None:
    whole = greedy(exact_service, logprobs=0)
    pieces = whole["logprob_token"]
    until_fox = greedy(exact_service, stop_token_ids=[16438])  # " fox"
    at = pieces.index(" fox")
    assert until_fox["text"] == ["".join(pieces[:at])]
    assert until_fox["finish_reason"] == ["stop"]


def test_control_tokens_are_text_only_if_requested(service: Service) -> None:
    start = 1  # <|im_start|>
    forced: dict[str, Any] = {"logit_bias_token_ids": [start], "logit_bias": [100.0]}
    assert greedy(service, max_tokens=2, **forced)["text"] == [""]
    assert greedy(service, max_tokens=2, **forced, skip_special_tokens=False)["text"] == ["<|im_start|>" * 2]


# ---- Samplers


@pytest.mark.parametrize(
    "inputs",
    [
        {"typical_p": 0.5},
        {"top_n_sigma": 1.0},
        {"xtc_probability": 0.9, "xtc_threshold": 0.05},
        {"mirostat": 1, "mirostat_tau": 3.0},
        {"mirostat": 2, "mirostat_eta": 0.2},
        {"repetition_penalty": 1.5, "repeat_last_n": 8},
        {"dry_multiplier": 50.0, "dry_allowed_length": 0, "dry_sequence_breakers": ["\n"]},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9, "frequency_penalty": 0.5},
    ],
    ids=lambda inputs: "-".join(inputs),
)
def test_samplers_are_reproducible_and_have_an_effect(exact_service: Service, inputs: dict[str, Any]) -> None:
    def sampled(**options: Any) -> str:
        return text(exact_service.ModelInfer(infer(SMOLLM2, STORY, max_tokens=40, seed=11, temperature=1.3, **options)))

    assert sampled(**inputs) == sampled(**inputs)
    assert sampled(**inputs) != sampled()


def test_penalties_prevent_repetition(exact_service: Service) -> None:
    prompt = "I say no. I say no. I say no. I say no. I say no. I say"

    def repeats(**inputs: Any) -> bool:
        continuation = greedy(exact_service, prompt, 8, **inputs)["text"][0]
        return bool(continuation.startswith(" no. I say no"))

    assert repeats()
    assert not repeats(dry_multiplier=10.0)
    assert repeats(dry_multiplier=10.0, dry_penalty_last_n=0)
    assert not repeats(repetition_penalty=5.0)
    assert repeats(repetition_penalty=5.0, repeat_last_n=0)


# ---- Guides


def test_text_matches_a_regular_expression(service: Service) -> None:
    response = greedy(service, regex=r"[a-c]{3}-\d{4}")
    assert re.fullmatch(r"[a-c]{3}-\d{4}", response["text"][0])
    assert response["finish_reason"] == ["stop"]


def test_the_text_of_each_streamed_choice_fits_the_schema(service: Service) -> None:
    schema = {
        "type": "object",
        "properties": {"animal": {"enum": ["fox", "crow"]}, "legs": {"type": "integer"}, "wild": {"type": "boolean"}},
        "required": ["animal", "legs", "wild"],
        "additionalProperties": False,
    }
    request = infer(SMOLLM2, STORY, max_tokens=200, n=4, seed=5, temperature=1.5, json_schema=json.dumps(schema))
    streamed = [""] * 4
    for response in service.ModelStreamInfer(iter([request])):
        part = outputs(response.infer_response)
        for index, token in zip(part["index"], part["token"], strict=True):
            streamed[index] += token
    for choice in streamed:
        value = json.loads(choice)
        assert set(value) == {"animal", "legs", "wild"}
        assert value["animal"] in ("fox", "crow")
        assert isinstance(value["wild"], bool)


def test_text_follows_a_grammar(service: Service) -> None:
    assert greedy(service, grammar='root ::= "yes" | "no"')["text"][0] in ("yes", "no")
    assert greedy(service, lark='start: "<" /[a-z]{2}/ ">"')["text"][0][0] == "<"


def test_log_probabilities_beside_a_guide_are_those_without_it(service: Service) -> None:
    response = greedy(service, regex="[0-9]{4}", logprobs=3)
    assert "".join(response["logprob_token"]) == response["text"][0]
    assert not response["top_logprob_token"][0].isdigit(), "the likeliest token without the guide"


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"regex": "(a"}, "unclosed group"),
        ({"json_schema": "{"}, "EOF"),
        ({"json_schema": '{"type": "array", "uniqueItems": true}'}, "uniqueItems"),
        ({"json_schema": '{"type": "array", "uniqueItems": true}', "lenient_schema": False}, "uniqueItems"),
        ({"json_schema": '{"type": "string", "pattern": "("}', "lenient_schema": True}, "unclosed group"),
        ({"grammar": "no grammar"}, ""),
        ({"grammar": "(" * 20_000}, ""),
        ({"lark": "start: <no_such_token>"}, "no_such_token"),
        ({"regex": "a" * (1 << 19)}, "longer than"),
        ({"regex": "a", "lark": 'start: "a"'}, "cannot be combined with"),
    ],
)
def test_an_invalid_guide_is_refused_by_name(service: Service, inputs: dict[str, Any], problem: str) -> None:
    error = refusal(service, **inputs)
    assert blamed_tensor(error) in inputs
    assert problem in (error.details() or "")


# ---- Log probabilities


def test_log_probabilities_are_those_of_the_text(service: Service) -> None:
    response = greedy(service, logprobs=3)
    assert "".join(response["logprob_token"]) == response["text"][0]
    assert response["logprob_index"] == [0] * len(response["logprob"])
    tops = list(zip(*[iter(response["top_logprob_token"])] * 3, strict=True))
    values = list(zip(*[iter(response["top_logprob"])] * 3, strict=True))
    for token, logprob, top, value in zip(response["logprob_token"], response["logprob"], tops, values, strict=True):
        assert top[0] == token
        assert value[0] == logprob <= 0
        assert list(value) == sorted(value, reverse=True)
        assert sum(map(math.exp, value)) <= 1 + 1e-4


def test_log_probabilities_end_before_a_stop_string(exact_service: Service) -> None:
    whole = greedy(exact_service)["text"][0]
    stop = whole[20:27]
    response = greedy(exact_service, stop=[stop], logprobs=0)
    scored_text = "".join(response["logprob_token"])
    assert scored_text.startswith(response["text"][0])
    assert len(scored_text) < len(response["text"][0]) + len(stop) + 10


def test_streamed_log_probabilities_are_the_unary_ones(exact_service: Service) -> None:
    request = infer(SMOLLM2, STORY, max_tokens=20, temperature=0.0, logprobs=2)
    whole = outputs(exact_service.ModelInfer(request))
    streamed: dict[str, list[Any]] = {spec.name: [] for spec in contract.LOGPROB_OUTPUTS}
    for response in exact_service.ModelStreamInfer(iter([request])):
        part = outputs(response.infer_response)
        for name, elements in streamed.items():
            elements += part.get(name, [])
    assert streamed == {name: whole[name] for name in streamed}


# ---- The prompt as part of the response


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
def test_echo_has_the_log_probabilities_of_the_prompt(service: Service, model: str) -> None:
    prompt = "The capital of France is Paris, and the capital of Germany is"
    request = infer(model, prompt, max_tokens=0, echo=True, logprobs=1)
    response = outputs(service.ModelInfer(request))
    assert response["text"] == ["".join(response["logprob_token"])] == [prompt]
    assert response["completion_tokens"] == [0]
    assert response["finish_reason"] == ["length"]
    by_token = dict(zip(response["logprob_token"], response["logprob"], strict=True))
    assert by_token[" Paris"] > -3
    assert math.isnan(response["logprob"][0]) == (model == SMOLLM2), "Gemma adds a BOS before the first token"


def test_scores_of_a_long_prompt_depend_neither_on_chunks_nor_on_the_cache(exact_service: Service) -> None:
    prompt = "The fox ran over the hill and looked at the crow. " * 30
    responses = [greedy(exact_service, prompt, 1, echo=True, logprobs=0) for _ in range(2)]
    first, second = (response["logprob"] for response in responses)
    assert len(first) > 300
    assert all(abs(a - b) < 0.05 for a, b in zip(first[1:], second[1:], strict=True))
    # The beginning of the prompt alone has the same probabilities.
    part = greedy(exact_service, prompt[:50], 0, echo=True, logprobs=0)["logprob"]
    assert all(abs(a - b) < 0.1 for a, b in zip(part[1:10], first[1:10], strict=True))


def test_token_ids_are_scored_one_by_one(service: Service) -> None:
    ids = [504, 3575, 282, 4649, 314, 7042]
    response = greedy(service, ids, 0, echo=True, logprobs=0)
    assert len(response["logprob"]) == len(ids)
    assert response["text"] == ["".join(response["logprob_token"])]


def test_each_choice_echoes_the_prompt(service: Service) -> None:
    request = infer(SMOLLM2, "One, two,", max_tokens=3, n=2, seed=1, echo=True)
    response = outputs(service.ModelInfer(request))
    assert all(choice.startswith("One, two,") and len(choice) > 9 for choice in response["text"])
    assert outputs(service.ModelInfer(infer(SMOLLM2, "One, two,", max_tokens=0, echo=True)))["text"] == ["One, two,"]


def test_a_model_without_infill_refuses_a_suffix(service: Service) -> None:
    error = refusal(service, suffix="the end")
    assert blamed_tensor(error) == "suffix"
    assert "filling in" in (error.details() or "")


# ---- Requests that could hurt others

SEGFAULTS = "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(4000)) + 'a4000: "x"'
EXPLODES = "start: A\nA: " + " & ".join(f"/(a|b)*a(a|b){{{n}}}/" for n in range(1, 40))


def test_exploding_guides_are_refused_while_others_stream(service: Service) -> None:
    stream = service.ModelStreamInfer(iter([infer(SMOLLM2, STORY, max_tokens=200, temperature=0.0, ignore_eos=True)]))
    first = next(stream)
    assert not first.error_message
    bad = [infer(SMOLLM2, STORY, lark=source, max_tokens=5) for source in (SEGFAULTS, EXPLODES) * 2]
    for call in [service.ModelInfer.future(request) for request in bad]:
        error = call.exception()
        assert isinstance(error, grpc.RpcError)
        assert blamed_tensor(error) == "lark"
        assert "too complex" in str(error.details())
    *_, last = stream
    assert outputs(last.infer_response)["completion_tokens"] == [200]
    assert greedy(service, regex="yes")["text"] == ["yes"]


def test_a_guide_that_explodes_later_fails_only_its_request(service: Service) -> None:
    other_call = service.ModelInfer.future(infer(SMOLLM2, STORY, max_tokens=60, temperature=0.0, ignore_eos=True))
    with pytest.raises(grpc.RpcError) as failed:
        greedy(service, grammar='root ::= "a"{100000000}', n=2, max_tokens=60)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert blamed_tensor(failed.value) == "grammar"
    assert outputs(other_call.result())["completion_tokens"] == [60]


def test_penalties_may_look_back_further_than_the_text(exact_service: Service) -> None:
    maximum = 2**31 - 1
    for penalty in ("repeat_last_n", "dry_penalty_last_n"):
        inputs: dict[str, Any] = {"repetition_penalty": 1.3, "dry_multiplier": 1.0}
        assert greedy(exact_service, **{**inputs, penalty: maximum}) == greedy(exact_service, **inputs)


def test_choices_with_breakers_are_prepared_once(service: Service) -> None:
    breakers = [chr(ord("a") + i) * 40 for i in range(16)]
    request = infer(SMOLLM2, STORY, max_tokens=2, n=64, seed=1, dry_multiplier=1.0, dry_sequence_breakers=breakers)
    assert len(outputs(service.ModelInfer(request, timeout=60))["text"]) == 64


@pytest.mark.parametrize("inputs", [{"typical_p": 0.9}, {"mirostat": 1}, {"mirostat": 2}], ids=lambda i: "-".join(i))
def test_samplers_that_take_logarithms_work_beside_a_guide(service: Service, inputs: dict[str, Any]) -> None:
    """Tokens that the guide excludes have no logarithm. Mirostat 1 once sampled only the likeliest token."""
    request = infer(SMOLLM2, STORY, n=8, seed=3, temperature=1.5, regex="[abc]{8}", **inputs)
    texts = outputs(service.ModelInfer(request))["text"]
    assert all(re.fullmatch("[abc]{8}", choice) for choice in texts)
    assert len(set(texts)) > 4
