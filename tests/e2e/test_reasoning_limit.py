"""The limit of reasoning on real vocabularies: the worker writes the end mark, and the model continues behind it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import servers
from tests.e2e.conftest import GEMMA3, SMOLLM2
from tests.e2e.messages import STORY, infer, outputs
from tests.models import smollm2_path

Service = GRPCInferenceServiceStub
END = "</think>"
N_END = {SMOLLM2: 3, GEMMA3: 3}
"""Tokens of `</think>`."""
LIMITED: dict[str, Any] = {"mark_end": [END, "[other]"], "max_marked_tokens": 6, "temperature": 0.0}


def answer(service: Service, model: str, prompt: str = STORY, **inputs: Any) -> dict[str, Any]:
    return outputs(service.ModelInfer(infer(model, prompt, **{**LIMITED, **inputs})))


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
@pytest.mark.parametrize("max_marked_tokens", [0, 1, 6])
def test_the_text_is_as_if_the_model_had_ended_its_reasoning(
    exact_service: Service, model: str, max_marked_tokens: int
) -> None:
    limited = answer(exact_service, model, max_tokens=20, max_marked_tokens=max_marked_tokens)
    assert limited["marked_tokens"] == [max_marked_tokens + N_END[model]]
    assert limited["completion_tokens"] == [20]
    thought, _, rest = limited["text"][0].partition(END)
    free = answer(exact_service, model, max_tokens=max(1, max_marked_tokens), max_marked_tokens=100)
    assert thought == (free["text"][0] if max_marked_tokens else "")
    after = answer(
        exact_service, model, STORY + thought + END, max_tokens=20 - limited["marked_tokens"][0], max_marked_tokens=100
    )
    assert rest == after["text"][0]


@pytest.mark.parametrize("skip_special_tokens", [True, False])
def test_the_end_mark_may_be_a_control_token(exact_service: Service, skip_special_tokens: bool) -> None:
    inputs: dict[str, Any] = {"mark_end": ["<|im_start|>"], "skip_special_tokens": skip_special_tokens}
    limited = answer(exact_service, SMOLLM2, max_tokens=16, **inputs)
    free = answer(exact_service, SMOLLM2, max_tokens=6, max_marked_tokens=100, **inputs)
    mark = "" if skip_special_tokens else "<|im_start|>"
    assert limited["text"][0].startswith(free["text"][0] + mark)
    assert limited["text"][0].count("<|im_start|>") == (not skip_special_tokens)
    assert limited["completion_tokens"][0] > limited["marked_tokens"][0] == 7


def test_each_token_of_the_end_mark_has_a_log_probability(exact_service: Service) -> None:
    limited = answer(exact_service, SMOLLM2, max_tokens=16, logprobs=1)
    tokens = limited["logprob_token"]
    assert "".join(tokens) == limited["text"][0]
    assert "".join(tokens[6 : 6 + N_END[SMOLLM2]]) == END
    likeliest = limited["top_logprob_token"]
    assert [token == top for token, top in zip(tokens, likeliest, strict=True)].count(False) >= 1
    assert all(value <= top + 1e-5 for value, top in zip(limited["logprob"], limited["top_logprob"], strict=True))


THINKS_THEN_ANSWERS = """
start: thought /(yes|no)/
thought[lazy]: /(?s:.*)/ "</think>"
"""


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
@pytest.mark.parametrize(
    "lark",
    [THINKS_THEN_ANSWERS, 'start: thought "</think>" /(yes|no)/\nthought: /[A-Za-z ,.]+/'],
    ids=["lazy", "rules"],
)
def test_the_end_mark_advances_a_grammar(exact_service: Service, model: str, lark: str) -> None:
    limited = answer(exact_service, model, max_tokens=40, lark=lark)
    thought, _, rest = limited["text"][0].partition(END)
    assert (rest in ("yes", "no"), limited["finish_reason"]) == (True, ["stop"])
    assert thought
    assert limited["marked_tokens"][0] >= 6 + N_END[model]


def test_a_control_token_as_end_mark_advances_a_grammar(exact_service: Service) -> None:
    lark = "start: thought <|im_start|> /(yes|no)/\nthought: /[A-Za-z ,.]+/"
    inputs: dict[str, Any] = {"mark_end": ["<|im_start|>"], "skip_special_tokens": False}
    limited = answer(exact_service, SMOLLM2, max_tokens=40, lark=lark, **inputs)
    thought, _, rest = limited["text"][0].partition("<|im_start|>")
    assert (len(thought) > 5, rest in ("yes", "no"), limited["marked_tokens"]) == (True, True, [7])


def test_a_grammar_without_the_end_mark_holds(exact_service: Service) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "additionalProperties": False,
        "required": ["a"],
    }
    limited = answer(exact_service, SMOLLM2, max_tokens=200, json_schema=json.dumps(schema), max_marked_tokens=1)
    assert END not in limited["text"][0]
    assert limited["finish_reason"] == ["stop"]
    assert list(json.loads(limited["text"][0])) == ["a"]


def test_a_grammar_delays_the_end_mark_until_it_may_follow(exact_service: Service) -> None:
    lark = r'start: "ten words first: " /([a-z]+ ){10}<\/think>/ /(yes|no)/'
    limited = answer(exact_service, SMOLLM2, max_tokens=100, lark=lark, max_marked_tokens=2)
    thought, _, rest = limited["text"][0].partition(END)
    assert len(thought.split()) == 13
    assert rest in ("yes", "no")


def test_choices_and_streams_have_the_same_limit(exact_service: Service) -> None:
    inputs: dict[str, Any] = {"n": 3, "seed": 5, "temperature": 0.9, "max_tokens": 24}
    whole = answer(exact_service, SMOLLM2, **inputs)
    assert whole["marked_tokens"] == [6 + N_END[SMOLLM2]] * 3
    assert all(END in text for text in whole["text"])
    texts = ["", "", ""]
    for response in exact_service.ModelStreamInfer(iter([infer(SMOLLM2, STORY, **{**LIMITED, **inputs})])):
        part = outputs(response.infer_response)
        for index, token in zip(part["index"], part["token"], strict=True):
            texts[index] += token
    assert texts == whole["text"]


REPEAT = "<|im_start|>user\nRepeat: one two three four five six seven eight nine<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def drafting_service() -> Iterator[Service]:
    with (
        servers.worker(
            *(f"--model={SMOLLM2}={smollm2_path()}", "--n-ctx=2048", "--parallel=1", "--cached-sequences=0"),
            *("--no-prefix-cache", "--prompt-lookup=4"),
        ) as (_, address),
        servers.stub(address) as service,
    ):
        yield service


@pytest.mark.parametrize("max_marked_tokens", [3, 5, 8])
def test_the_limit_holds_inside_a_draft(drafting_service: Service, max_marked_tokens: int) -> None:
    thinks = REPEAT + "one two three"  # so that the next words are drafted
    limited = answer(
        drafting_service, SMOLLM2, thinks, max_tokens=30, max_marked_tokens=max_marked_tokens, ignore_eos=True
    )
    assert limited["marked_tokens"] == [max_marked_tokens + N_END[SMOLLM2]]
    assert limited["text"][0].startswith(" four five six"[:10])
    assert END in limited["text"][0]
