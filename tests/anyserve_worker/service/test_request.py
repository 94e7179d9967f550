"""Tensors to generation requests: valid values, and rejected ones with the tensor that the error names."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.core.generation_request import GenerationRequest
from anyserve_worker.core.guide import Guide
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.sampling.breakers import MAX_BREAKER_BYTES
from anyserve_worker.service.request import MAX_STOP_LENGTH, parse
from protos import contract
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import InferTensorContents, ModelInferRequest
from protos.tensors import Tensor, add_input, to_raw

Build = Callable[..., ModelInferRequest]
SPECS = {spec.name: spec for spec in contract.INPUTS}


def typed(**inputs: Any) -> ModelInferRequest:
    """Returns a request. An input is a list of elements, or a Tensor to deviate from the contract."""
    message = ModelInferRequest(model_name="m")
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            add_input(message, TensorSpec(name, value.datatype, (-1,), ""), value.elements)
            message.inputs[-1].shape[:] = value.shape
        else:
            add_input(message, SPECS[name], value)
    return message


def raw(**inputs: Any) -> ModelInferRequest:
    message = typed(**inputs)
    for tensor in message.inputs:
        contents = tensor.contents.ListFields()
        message.raw_input_contents.append(to_raw(tensor.datatype, list(contents[0][1]) if contents else []))
        tensor.ClearField("contents")
    return message


def tensor(datatype: str, shape: tuple[int, ...], *elements: Any) -> Tensor:
    return Tensor("", datatype, shape, elements)


def refusal(message: ModelInferRequest) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(message)
    assert caught.value.status is StatusCode.INVALID_ARGUMENT
    return caught.value


forms = pytest.mark.parametrize("form", [typed, raw], ids=["typed", "raw"])


# ---- Accepted requests


@forms
def test_only_a_prompt_is_required(form: Build) -> None:
    assert parse(form(prompt=[b"hi"])) == GenerationRequest("hi")


@forms
def test_every_input_sets_its_field(form: Build) -> None:
    message = form(
        prompt=["Grüße".encode()],
        max_tokens=[7],
        temperature=[0.5],
        top_p=[0.25],
        top_k=[40],
        min_p=[0.125],
        presence_penalty=[-1.5],
        frequency_penalty=[1.5],
        repetition_penalty=[1.25],
        stop=[b"a", "é".encode()],
        include_stop=[True],
        seed=[-3],
        n=[2],
        repeat_last_n=[64],
        typical_p=[0.75],
        top_n_sigma=[1.5],
        xtc_probability=[0.375],
        xtc_threshold=[0.0625],
        dry_multiplier=[0.875],
        dry_base=[1.125],
        dry_allowed_length=[3],
        dry_penalty_last_n=[128],
        dry_sequence_breakers=[b"\n", "é".encode()],
        mirostat=[2],
        mirostat_tau=[4.5],
        mirostat_eta=[0.03125],
        logit_bias_token_ids=[5, 7],
        logit_bias=[-100.0, 2.5],
        stop_token_ids=[8, 9, 8],
        min_tokens=[4],
        ignore_eos=[True],
        skip_special_tokens=[False],
        json_schema=['{"const": "é"}'.encode()],
        lenient_schema=[True],
        logprobs=[5],
        suffix=["Füße".encode()],
        mark_begin=["<ä>".encode()],
        mark_end=[b"</a>", b"</b>"],
        max_marked_tokens=[6],
        priority=[3],
        timings=[True],
        prompt_progress=[True],
    )
    others = {"prompt_token_ids", "plain_spans", "echo", "regex", "grammar", "lark"}
    assert {t.name for t in message.inputs} | others == SPECS.keys(), (
        "the message must have every input of the contract"
    )
    assert parse(message) == GenerationRequest(
        prompt="Grüße",
        max_tokens=7,
        n=2,
        stop=("a", "é"),
        include_stop=True,
        suffix="Füße",
        skip_special_tokens=False,
        guide=Guide(contract.JSON_SCHEMA, '{"const": "é"}', lenient=True),
        mark_begin="<ä>",
        mark_end=("</a>", "</b>"),
        max_marked_tokens=6,
        priority=3,
        timings=True,
        prompt_progress=True,
        sampling=SamplingParameters(
            temperature=0.5,
            top_p=0.25,
            top_k=40,
            min_p=0.125,
            presence_penalty=-1.5,
            frequency_penalty=1.5,
            repetition_penalty=1.25,
            repeat_last_n=64,
            typical_p=0.75,
            top_n_sigma=1.5,
            xtc_probability=0.375,
            xtc_threshold=0.0625,
            dry_multiplier=0.875,
            dry_base=1.125,
            dry_allowed_length=3,
            dry_penalty_last_n=128,
            dry_sequence_breakers=("\n", "é"),
            mirostat=2,
            mirostat_tau=4.5,
            mirostat_eta=0.03125,
            logit_bias=((5, -100.0), (7, 2.5)),
            min_tokens=4,
            ignore_eos=True,
            stop_token_ids=frozenset((8, 9)),
            logprobs=5,
            seed=-3,
        ),
    )


@forms
@pytest.mark.parametrize("spec", contract.GUIDES, ids=lambda spec: spec.name)
def test_a_guide_has_the_language_of_its_input(form: Build, spec: TensorSpec) -> None:
    assert parse(form(prompt=[b"x"], **{spec.name: ["é".encode()]})).guide == Guide(spec, "é")


@forms
@pytest.mark.parametrize("value", [True, False])
def test_flags_may_be_true_or_false(form: Build, value: bool) -> None:
    request = parse(form(prompt=[b"x"], echo=[value], ignore_eos=[value], skip_special_tokens=[value]))
    assert (request.echo, request.sampling.ignore_eos, request.skip_special_tokens) == (value, value, value)


@forms
def test_echo_is_allowed_with_token_ids_and_false_with_a_suffix(form: Build) -> None:
    assert parse(form(prompt_token_ids=[1], echo=[True])).echo
    assert parse(form(prompt=[b"x"], echo=[False], suffix=[b""])).suffix == ""


@forms
def test_logprobs_of_zero_differs_from_none(form: Build) -> None:
    assert parse(form(prompt=[b"x"])).sampling.logprobs is None
    assert parse(form(prompt=[b"x"], logprobs=[0])).sampling.logprobs == 0


@forms
def test_lists_may_be_empty(form: Build) -> None:
    empty = ("logit_bias", "logit_bias_token_ids", "stop_token_ids", "dry_sequence_breakers")
    sampling = parse(form(prompt=[b"x"], **{name: [] for name in empty})).sampling
    assert sampling == SamplingParameters(dry_sequence_breakers=())


def test_lists_may_have_their_maximum_length() -> None:
    sampling = parse(
        raw(
            prompt=[b"x"],
            logit_bias_token_ids=range(contract.MAX_LOGIT_BIAS),
            logit_bias=[1.0] * contract.MAX_LOGIT_BIAS,
            stop_token_ids=range(contract.MAX_TOKEN_LIST),
            dry_sequence_breakers=["é".encode() * (MAX_BREAKER_BYTES // 2)] * contract.MAX_STOP_STRINGS,
        )
    ).sampling
    assert len(sampling.logit_bias) == contract.MAX_LOGIT_BIAS
    assert len(sampling.stop_token_ids) == contract.MAX_TOKEN_LIST
    assert len(sampling.dry_sequence_breakers) == contract.MAX_STOP_STRINGS


@forms
def test_a_prompt_may_be_token_ids(form: Build) -> None:
    assert list(parse(form(prompt_token_ids=[5, 0, 2**31 - 1])).prompt) == [5, 0, 2**31 - 1]


@forms
def test_a_prompt_may_be_empty(form: Build) -> None:
    assert parse(form(prompt=[b""])).prompt == ""


@forms
def test_the_list_of_stop_strings_may_be_empty(form: Build) -> None:
    assert parse(form(prompt=[b"x"], stop=[])).stop == ()


@forms
@pytest.mark.parametrize("spec", [s for s in contract.INPUTS if s.shape == (1,) and s.low is not None])
def test_the_ends_of_a_range_are_allowed(form: Build, spec: TensorSpec) -> None:
    assert spec.low is not None
    high = spec.high if spec.high is not None else contract.INT32_MAX
    for value in (spec.low, high):
        number = int(value) if spec.datatype == "INT32" else value
        parse(form(prompt=[b"x"], mark_end=[b"x"], **{spec.name: [number]}))


@forms
@pytest.mark.parametrize("spec", [s for s in contract.INPUTS if s.shape == (1,) and s.low is not None])
def test_values_beyond_the_ends_of_a_range_are_rejected(form: Build, spec: TensorSpec) -> None:
    step = 1 if spec.datatype == "INT32" else 0.001
    for bound, beyond in ((spec.low, -step), (spec.high, step)):
        if bound is None or spec is contract.SEED:  # the seed's range is all of INT32
            continue
        number = type(step)(bound) + beyond
        error = refusal(form(prompt=[b"x"], **{spec.name: [number]}))
        assert error.tensor == spec.name
        assert f"tensor '{spec.name}'" in str(error)
        assert "out of range [" in str(error)


# ---- Rejected requests

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no prompt": ({"max_tokens": [1]}, "prompt", "missing"),
    "no tensor at all": ({}, "prompt", "missing"),
    "both prompts": (
        {"prompt": [b"x"], "prompt_token_ids": [1]},
        "prompt",
        "cannot be combined with 'prompt_token_ids'",
    ),
    "two prompts in one": ({"prompt": [b"x", b"y"]}, "prompt", "shape is [2], must be [1]"),
    "prompt of no element": ({"prompt": []}, "prompt", "shape is [0], must be [1]"),
    "prompt in two dimensions": ({"prompt": tensor("BYTES", (1, 1), b"x")}, "prompt", "shape is [1, 1], must be [1]"),
    "prompt as a scalar": ({"prompt": tensor("BYTES", (), b"x")}, "prompt", "shape is [], must be [1]"),
    "prompt not UTF-8": ({"prompt": [b"a\xff"]}, "prompt", "not UTF-8"),
    "prompt ends in a character": ({"prompt": [b"\xe2\x82"]}, "prompt", "not UTF-8"),
    "prompt with a surrogate": ({"prompt": [b"\xed\xa0\x80"]}, "prompt", "not UTF-8"),
    "prompt as numbers": ({"prompt": tensor("INT32", (1,), 1)}, "prompt", "datatype is INT32, must be BYTES"),
    "no token ids": ({"prompt_token_ids": []}, "prompt_token_ids", "empty"),
    "negative token id": ({"prompt_token_ids": [1, -1, 3]}, "prompt_token_ids", "-1 is out of range [0, inf]"),
    "token ids in a batch": (
        {"prompt_token_ids": tensor("INT32", (1, 2), 1, 2)},
        "prompt_token_ids",
        "shape is [1, 2], must be [-1]",
    ),
    "token ids of 64 bits": (
        {"prompt_token_ids": tensor("INT64", (1,), 1)},
        "prompt_token_ids",
        "datatype is INT64, must be INT32",
    ),
    "negative max_tokens": ({"prompt": [b"x"], "max_tokens": [-1]}, "max_tokens", "-1 is out of range [0, inf]"),
    "two max_tokens": ({"prompt": [b"x"], "max_tokens": [1, 2]}, "max_tokens", "shape is [2], must be [1]"),
    "max_tokens as a float": (
        {"prompt": [b"x"], "max_tokens": tensor("FP32", (1,), 1.0)},
        "max_tokens",
        "datatype is FP32, must be INT32",
    ),
    "NaN": ({"prompt": [b"x"], "temperature": [math.nan]}, "temperature", "nan is not a finite number"),
    "infinity": ({"prompt": [b"x"], "temperature": [math.inf]}, "temperature", "inf is not a finite number"),
    "minus infinity": ({"prompt": [b"x"], "top_p": [-math.inf]}, "top_p", "-inf is not a finite number"),
    "temperature of 64 bits": (
        {"prompt": [b"x"], "temperature": tensor("FP64", (1,), 1.0)},
        "temperature",
        "datatype is FP64, must be FP32",
    ),
    "n of 0": ({"prompt": [b"x"], "n": [0]}, "n", "0 is out of range [1, 128]"),
    "17 stop strings": ({"prompt": [b"x"], "stop": [b"s"] * 17}, "stop", "17 elements, at most 16"),
    "an empty stop string": ({"prompt": [b"x"], "stop": [b"a", b""]}, "stop", "1 to 1000 characters"),
    "a long stop string": ({"prompt": [b"x"], "stop": [b"s" * (MAX_STOP_LENGTH + 1)]}, "stop", "1 to 1000 characters"),
    "a stop string not UTF-8": ({"prompt": [b"x"], "stop": [b"\x80"]}, "stop", "not UTF-8"),
    "a breaker that llama.cpp would cut off": (
        {"prompt": [b"x"], "dry_sequence_breakers": [b"a", "é".encode() * 21]},
        "dry_sequence_breakers",
        "1 to 40 bytes",
    ),
    "a breaker that C would cut off": (
        {"prompt": [b"x"], "dry_sequence_breakers": [b"a\0b"]},
        "dry_sequence_breakers",
        "none of them 0",
    ),
    "an empty breaker": ({"prompt": [b"x"], "dry_sequence_breakers": [b""]}, "dry_sequence_breakers", "1 to"),
    "17 breakers": ({"prompt": [b"x"], "dry_sequence_breakers": [b"a"] * 17}, "dry_sequence_breakers", "at most 16"),
    "a breaker not UTF-8": (
        {"prompt": [b"x"], "dry_sequence_breakers": [b"\xff"]},
        "dry_sequence_breakers",
        "not UTF-8",
    ),
    "fewer biases than tokens": (
        {"prompt": [b"x"], "logit_bias_token_ids": [1, 2], "logit_bias": [1.0]},
        "logit_bias",
        "1 elements for 2 tokens",
    ),
    "biases alone": ({"prompt": [b"x"], "logit_bias": [1.0]}, "logit_bias", "1 elements for 0 tokens"),
    "tokens without biases": ({"prompt": [b"x"], "logit_bias_token_ids": [1]}, "logit_bias", "0 elements for 1 tokens"),
    "too many biases": (
        {"prompt": [b"x"], "logit_bias_token_ids": [1] * 1025, "logit_bias": [1.0] * 1025},
        "logit_bias_token_ids",
        "1025 elements, at most 1024",
    ),
    "a bias of no number": (
        {"prompt": [b"x"], "logit_bias_token_ids": [1, 2], "logit_bias": [1.0, math.nan]},
        "logit_bias",
        "nan is not a finite number",
    ),
    "a large bias": (
        {"prompt": [b"x"], "logit_bias_token_ids": [1, 2], "logit_bias": [0.0, -101.0]},
        "logit_bias",
        "-101 is out of range [-100, 100]",
    ),
    "a bias of no token": (
        {"prompt": [b"x"], "logit_bias_token_ids": [-1], "logit_bias": [1.0]},
        "logit_bias_token_ids",
        "-1 is out of range",
    ),
    "too many stop tokens": ({"prompt": [b"x"], "stop_token_ids": [1] * 1025}, "stop_token_ids", "at most 1024"),
    "a negative stop token": ({"prompt": [b"x"], "stop_token_ids": [1, -2]}, "stop_token_ids", "-2 is out of range"),
    "a flag as a number": (
        {"prompt": [b"x"], "echo": tensor("INT32", (1,), 1)},
        "echo",
        "datatype is INT32, must be BOOL",
    ),
    "two flags": ({"prompt": [b"x"], "ignore_eos": [True, False]}, "ignore_eos", "shape is [2], must be [1]"),
    "a number as a flag": (
        {"prompt": [b"x"], "logprobs": tensor("BOOL", (1,), True)},
        "logprobs",
        "datatype is BOOL, must be INT32",
    ),
    "many log probabilities": ({"prompt": [b"x"], "logprobs": [21]}, "logprobs", "21 is out of range [0, 20]"),
    "two guides": (
        {"prompt": [b"x"], "lark": [b"x"], "regex": [b"x"]},
        "lark",
        "cannot be combined with 'regex'",
    ),
    "a guide not UTF-8": ({"prompt": [b"x"], "regex": [b"\xff"]}, "regex", "not UTF-8"),
    "leniency without a schema": (
        {"prompt": [b"x"], "regex": [b"a"], "lenient_schema": [True]},
        "lenient_schema",
        "requires 'json_schema'",
    ),
    "a limit of marked tokens without a mark": (
        {"prompt": [b"x"], "mark_begin": [b"<t>"], "max_marked_tokens": [1]},
        "max_marked_tokens",
        "requires 'mark_end'",
    ),
    "two schemas": ({"prompt": [b"x"], "json_schema": [b"{}", b"{}"]}, "json_schema", "shape is [2], must be [1]"),
    "a suffix of token ids": (
        {"prompt_token_ids": [1], "suffix": [b"x"]},
        "suffix",
        "cannot be combined with 'prompt_token_ids'",
    ),
    "a suffix with echo": (
        {"prompt": [b"x"], "suffix": [b"y"], "echo": [True]},
        "suffix",
        "cannot be combined with 'echo'",
    ),
    "a suffix not UTF-8": ({"prompt": [b"x"], "suffix": [b"\xe2\x82"]}, "suffix", "not UTF-8"),
    "a suffix without a prompt": ({"suffix": [b"x"]}, "prompt", "missing"),
    "mirostat 3": ({"prompt": [b"x"], "mirostat": [3]}, "mirostat", "3 is out of range [0, 2]"),
    "unknown": ({"prompt": [b"x"], "text_intpu": tensor("BYTES", (1,), b"x")}, "text_intpu", "not an input"),
    "an output": ({"prompt": [b"x"], "text": tensor("BYTES", (1,), b"x")}, "text", "not an input"),
}


@forms
@pytest.mark.parametrize(("inputs", "name", "problem"), BAD.values(), ids=BAD.keys())
def test_an_invalid_tensor_is_named(form: Build, inputs: dict[str, Any], name: str, problem: str) -> None:
    error = refusal(form(**inputs))
    assert error.tensor == name
    assert str(error).startswith(f"tensor '{name}': ")
    assert problem in str(error)


def test_stop_strings_may_have_their_maximum_number_and_length() -> None:
    stop = tuple(chr(ord("a") + i) * MAX_STOP_LENGTH for i in range(16))
    assert parse(typed(prompt=[b"x"], stop=[s.encode() for s in stop])).stop == stop


def test_a_tensor_with_raw_and_typed_contents_is_rejected() -> None:
    message = raw(prompt=[b"x"], max_tokens=[1])
    message.inputs[1].contents.int_contents.append(1)
    assert refusal(message).tensor == "max_tokens"


def test_a_mixture_of_raw_and_typed_tensors_is_rejected() -> None:
    message = raw(prompt=[b"x"])
    add_input(message, contract.MAX_TOKENS, [1])
    assert refusal(message).tensor == "max_tokens"


def test_an_input_that_appears_twice_is_rejected() -> None:
    message = typed(prompt=[b"x"])
    add_input(message, contract.PROMPT, [b"y"])
    assert str(refusal(message)) == "tensor 'prompt': sent twice"


def test_contents_in_the_wrong_field_are_rejected() -> None:
    message = typed(prompt=[b"x"])
    message.inputs.add(name="max_tokens", datatype="INT32", shape=[1], contents=InferTensorContents(int64_contents=[1]))
    assert refusal(message).tensor == "max_tokens"


def test_elements_that_do_not_fill_the_shape_are_rejected() -> None:
    message = typed(prompt=[b"x"], max_tokens=[1])
    message.inputs[1].shape[:] = [2]
    assert str(refusal(message)) == "tensor 'max_tokens': 1 elements do not fill shape [2]"


def test_bounds_are_compared_with_the_precision_of_fp32() -> None:
    assert parse(raw(prompt=[b"x"], repetition_penalty=[0.01])).sampling.repetition_penalty < 0.01


@given(
    inputs=st.lists(
        st.tuples(
            st.sampled_from([*SPECS, "other"]),
            st.sampled_from(["BYTES", "INT32", "FP32", "INT64", ""]),
            st.lists(st.integers(-1, 2), max_size=2),
            st.one_of(st.binary(max_size=12), st.sampled_from([b"\1\0\0\0", b"\1\0\0\0x", b"\0\0\xc0\x7f"])),
        ),
        max_size=3,
    )
)
def test_any_tensors_give_a_request_or_an_invalid_request_error(
    inputs: list[tuple[str, str, list[int], bytes]],
) -> None:
    message = typed()
    for name, datatype, shape, contents in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(contents)
    with suppress(InvalidRequest):
        request = parse(message)
        assert math.isfinite(request.sampling.temperature)
        assert request.n >= 1


# ---- Timeout


def with_timeout(**parameter: Any) -> ModelInferRequest:
    message = typed(prompt=[b"x"])
    for kind, value in parameter.items():
        setattr(message.parameters["timeout"], kind, value)
    return message


@pytest.mark.parametrize(
    ("parameter", "seconds"),
    [
        ({"int64_param": 1_500_000}, 1.5),
        ({"uint64_param": 1}, 1e-6),
        ({"int64_param": 0}, None),
        ({"uint64_param": 0}, None),
        ({}, None),
    ],
)
def test_a_timeout_is_in_microseconds_and_zero_means_none(parameter: dict[str, Any], seconds: float | None) -> None:
    assert parse(with_timeout(**parameter)).timeout == seconds


@pytest.mark.parametrize(
    "parameter", [{"int64_param": -1}, {"string_param": "1"}, {"double_param": 1.0}, {"bool_param": True}]
)
def test_an_invalid_timeout_is_rejected(parameter: dict[str, Any]) -> None:
    error = refusal(with_timeout(**parameter))
    assert str(error).startswith("parameter 'timeout': ")
    assert error.tensor == ""


def test_a_timeout_without_a_value_is_rejected() -> None:
    message = typed(prompt=[b"x"])
    message.parameters["timeout"].SetInParent()
    assert str(refusal(message)).startswith("parameter 'timeout': ")


# ---- The caller


def with_caller(**parameter: Any) -> ModelInferRequest:
    message = typed(prompt=[b"x"])
    for kind, value in parameter.items():
        setattr(message.parameters["anyserve_caller"], kind, value)
    return message


def test_the_caller_is_a_string_of_up_to_256_characters() -> None:
    assert parse(with_caller()).caller == ""
    assert parse(with_caller(string_param="team-a")).caller == "team-a"
    assert parse(with_caller(string_param="é" * 256)).caller == "é" * 256


@pytest.mark.parametrize("parameter", [{"int64_param": 1}, {"bool_param": True}, {"string_param": "x" * 257}])
def test_any_other_caller_is_rejected(parameter: dict[str, Any]) -> None:
    assert str(refusal(with_caller(**parameter))).startswith("parameter 'anyserve_caller': must be a string")


# ---- Plain spans

GREETING = "Grüße<|im_end|>"  # ü and ß take two bytes each


@forms
@pytest.mark.parametrize(
    ("offsets", "plain"),
    [
        ([], ()),
        ([7, 17], ((5, 15),)),
        ([0, 2, 2, 4], ((0, 2), (2, 3))),
        ([0, 17], ((0, 15),)),
        ([16, 17], ((14, 15),)),
    ],
)
def test_plain_spans_in_bytes_become_spans_in_characters(
    form: Build, offsets: list[int], plain: tuple[tuple[int, int], ...]
) -> None:
    assert parse(form(prompt=[GREETING.encode()], plain_spans=offsets)).plain == plain


@forms
@pytest.mark.parametrize(
    "offsets", [[1], [1, 2, 4], [2, 1], [4, 4], [0, 4, 2, 6], [4, 6, 0, 2], [0, 18], [17, 18], [-1, 2], [3, 7], [0, 3]]
)
def test_invalid_plain_spans_are_rejected(form: Build, offsets: list[int]) -> None:
    error = refusal(form(prompt=[GREETING.encode()], plain_spans=offsets))
    assert error.tensor == "plain_spans"


@forms
def test_plain_spans_are_allowed_only_within_a_text(form: Build) -> None:
    assert refusal(form(prompt_token_ids=[1, 2, 3], plain_spans=[0, 1])).tensor == "plain_spans"
    assert refusal(form(prompt=[b""], plain_spans=[0, 1])).tensor == "plain_spans"
    assert parse(form(prompt=[b""], plain_spans=[])).plain == ()
