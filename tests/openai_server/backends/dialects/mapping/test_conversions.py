"""Values are sent exactly or not at all, and no place is taken whose datatype doesn't fit."""

import json
from typing import Any

import pytest

from openai_server.backends.dialects.base import UnusableModel
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.dialects.description import Description
from openai_server.backends.dialects.mapping.load import BadMapping, parse
from openai_server.core.errors import UnsupportedParameter
from protos import tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest
from tests.openai_server.backends.dialects.mapping import models
from tests.openai_server.backends.dialects.mapping.models import call_of, dialect_of, inputs_of, tensors_of
from tests.openai_server.backends.dialects.mapping.test_files import MINIMAL, file_of, mapped


def model(inputs: str, **fields: Any) -> Description:
    return Description(
        model="m", inputs=tensors_of(f"text_input:BYTES {inputs}"), outputs=tensors_of("text_output:BYTES"), **fields
    )


def mapped_to(place: str, inputs: str = "") -> Any:
    """A model with the prompt and one further place."""
    return mapped(
        f'inputs.prompt = "text_input"\noutputs.text = "text_output"\n{place}\n', model(inputs) if inputs else None
    )


# ---- The choice of tensors


def test_a_tensor_of_another_kind_is_passed_over() -> None:
    """`stop:BOOL` cancels a request in TensorRT-LLM."""
    inputs = inputs_of(call_of(dialect_of(model("stop:BOOL stop_words:BYTES")), stop="END"))
    assert inputs == {"text_input": [b"Hi"], "stop_words": [b"END"]}


@pytest.mark.parametrize("tensor", ["stop:BOOL", "stop:INT32", "stop:STRING"])
def test_a_field_without_a_tensor_of_its_kind_is_refused(tensor: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        call_of(dialect_of(model(tensor)), stop="END")
    assert caught.value.param == "stop"


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "BYTES", "BOOL"])
def test_a_number_is_sent_only_as_a_number_with_a_typed_form(datatype: str) -> None:
    with pytest.raises(UnsupportedParameter, match="temperature"):
        call_of(dialect_of(model(f"temperature:{datatype}")), temperature=0.5)
    named = mapped_to('inputs.temperature = { tensor = "t", type = "BYTES" }', f"t:{datatype}")
    assert inputs_of(call_of(named, temperature=0.5))["t"] == [b"0.5"]


def test_a_constant_takes_the_first_tensor_of_its_kind() -> None:
    call = call_of(mapped_to('always."a|b" = true', "a:INT32 b:BOOL"))
    assert inputs_of(call)["b"] == [True]


@pytest.mark.parametrize(
    ("constant", "tensor"),
    [
        ('"false"', "X:BOOL"),
        ('"abc"', "X:INT32"),
        ("0.7", "X:INT32"),
        ("99999999999", "X:INT32"),
        ("1000", "X:INT8"),
        ("1", "X:FP16"),
        ("true", "X:INT32"),
        ('{ value = "x", type = "INT32" }', "X:INT32"),
        ("{ value = [1, 2], rank = 0 }", "X:INT32"),
    ],
)
def test_a_constant_that_does_not_fit_makes_the_model_unusable(constant: str, tensor: str) -> None:
    with pytest.raises(UnusableModel, match=r"'X'.* can't hold the constant"):
        mapped_to(f"always.X = {constant}", tensor)


def test_constants_of_a_model_without_metadata_have_a_datatype_that_holds_them() -> None:
    call = call_of(mapped_to("always.big = 99999999999\nalways.mixed = { value = [1, 0.5] }"))
    datatypes = {tensor.name: tensor.datatype for tensor in call.request.inputs}
    assert (datatypes["big"], datatypes["mixed"]) == ("INT64", "FP32")


def test_a_model_without_a_text_for_the_prompt_is_unusable() -> None:
    description = Description(model="m", inputs=tensors_of("text_input:INT32"), outputs=tensors_of("text_output:BYTES"))
    with pytest.raises(UnusableModel, match=r"no input .* for the prompt"):
        Dialects({"m": "text_input"}).of(description)
    named = parse({"models": ["m"], "inputs": {"prompt": "text_input"}, "outputs": {"text": "text_output"}}, "mine")
    with pytest.raises(UnusableModel):
        Dialects(files=[named]).of(description)
    assert Dialects().of(description) is None, "a built-in dialect is passed over"


def test_a_built_in_dialect_whose_constant_does_not_fit_is_passed_over() -> None:
    ensemble = models.ENSEMBLE
    inputs = (*ensemble.inputs, *tensors_of("guided_decoding_guide:BYTES guided_decoding_guide_type:INT32"))
    changed = Description(model="m", inputs=inputs, outputs=ensemble.outputs)
    assert dialect_of(changed).name == "text_input"


# ---- Exact values


@pytest.mark.parametrize(
    ("datatype", "body", "expected"),
    [
        ("INT8", {"max_tokens": 127}, [127]),
        ("INT8", {"max_tokens": 1000}, None),
        ("UINT8", {"max_tokens": 256}, None),
        ("INT64", {"max_tokens": 1000}, [1000]),
        ("FP32", {"max_tokens": 1000}, [1000.0]),
        ("FP32", {"max_tokens": (1 << 24) + 1}, None),
        ("FP64", {"max_tokens": (1 << 24) + 1}, [16777217.0]),
        ("INT32", {"temperature": 2.0}, [2]),
        ("INT32", {"temperature": 0.7}, None),
        ("UINT32", {"presence_penalty": -1}, None),
        ("INT16", {"seed": 5}, [5]),
        ("INT16", {"seed": 1 << 20}, None),
    ],
)
def test_a_value_is_sent_exactly_or_refused(datatype: str, body: dict[str, Any], expected: list[Any] | None) -> None:
    [field] = body
    dialect = mapped_to(f'inputs.{field} = "{field}"', f"{field}:{datatype}")
    if expected is None:
        with pytest.raises(UnsupportedParameter, match=f"'{field}' can't be sent to this model.*{datatype}") as caught:
            call_of(dialect, **body)
        assert caught.value.param == field
    else:
        assert inputs_of(call_of(dialect, **body))[field] == expected


def test_factors_give_whole_numbers_where_these_are_expected() -> None:
    percent = mapped_to('inputs.temperature = { tensor = "t", type = "INT32", factor = 100 }')
    assert inputs_of(call_of(percent, temperature=0.29))["t"] == [29]
    text = """
        [json]
        tensor = "J"
        [inputs]
        prompt = "P"
        max_tokens = { key = "m", factor = 1 }
        top_k = { key = "k", zero = -1 }
        top_p = { key = "p", factor = 100 }
        [outputs]
        text = "T"
        """
    call = call_of(mapped(text), max_tokens=5, top_k=-1, top_p=0.5)
    assert inputs_of(call)["J"] in ([b'{"m":5,"p":50.0,"k":-1}'], [b'{"m":5,"k":-1,"p":50.0}'])


def test_booleans_become_text_as_in_json() -> None:
    dialect = mapped_to('always.X = { value = true, type = "BYTES" }')
    assert inputs_of(call_of(dialect))["X"] == [b"true"]


def test_a_single_value_is_no_list() -> None:
    dialect = mapped_to('inputs.stop = { tensor = "S", rank = 0 }')
    assert inputs_of(call_of(dialect, stop="a"))["S"] == [b"a"]
    with pytest.raises(UnsupportedParameter, match="stop"):
        call_of(dialect, stop=["a", "b"])


@pytest.mark.parametrize(
    ("datatype", "elements", "to", "problem"),
    [
        ("FP32", [0.5], "INT32", "not a whole number"),
        ("INT32", [1000], "INT8", "not between -128 and 127"),
        ("BYTES", [b"END"], "BOOL", "a text is not a number"),
        ("INT32", [1], "BYTES", "a number is not a text"),
        ("INT32", [1], "FP16", "no typed form"),
        ("INT32", [2], "BOOL", "not between 0 and 1"),
    ],
)
def test_the_conversion_of_an_input_is_exact(datatype: str, elements: list[Any], to: str, problem: str) -> None:
    request = ModelInferRequest()
    tensors.add_tensor(request, "x", datatype, 1, elements)
    with pytest.raises(tensors.TensorError, match=problem):
        tensors.convert_input(request.inputs[0], to, 1)


# ---- Mistakes in files


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ('stop = { tensor = "S", min = 1 }', "`min` for the input 'stop', which is not a number"),
        ('stop = { tensor = "S", factor = 2 }', "`factor` for the input 'stop', which is not a number"),
        ('ignore_eos = { tensor = "S", at_zero = {} }', "`at_zero`"),
        ('top_k = { tensor = "S", factor = inf }', "not finite"),
        ('top_k = { tensor = "S", zero = 0.5 }', "not a whole number"),
        ('stop = { tensor = "S", type = "INT32" }', "the type INT32 for the input 'stop'"),
        ('top_k = { tensor = "S", type = "INT32", as = "json" }', "the type INT32"),
        ('max_tokens = { tensor = "S", type = "BYTES", default = "256" }', "wrong `default`"),
        ('max_tokens = { tensor = "S", default = 0.5 }', "wrong `default`"),
        ('max_tokens = { tensor = "S", default = true }', "wrong `default`"),
        ('stop = { tensor = "S", default = 5 }', "wrong `default`"),
        ('max_tokens = { tensor = "S", default = ["1"] }', "a list as `default`"),
        ('max_tokens = { tensor = "S", min = 1, default = 0 }', "not between its `min` and its `max`"),
        ("stop = []", "length >= 1"),
    ],
)
def test_settings_that_do_not_fit_the_input_are_refused(place: str, problem: str) -> None:
    with pytest.raises(BadMapping, match=problem):
        file_of(f'[inputs]\nprompt = "P"\n{place}\n[outputs]\ntext = "T"\n')


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (
            'temperature = { key = "a" }\ntop_p = { key = "a.b" }',
            "the key 'a' for `temperature`, and 'a.b' for `top_p`",
        ),
        ('temperature = { key = "a" }\ntop_p = { key = "a" }', "the key 'a'"),
        ('temperature = { key = "mode" }', "the key 'mode' for `always`"),
        ('temperature = { key = "mode.x" }', "the key 'mode' for `always`"),
        ('temperature = { parameter = "a" }\ntop_p = { parameter = "a" }', "the parameter 'a'"),
        ('temperature = { parameter = "user" }', "the parameter 'user' for `request_parameters`"),
    ],
)
def test_a_key_or_a_parameter_has_one_value(place: str, problem: str) -> None:
    start = 'request_parameters.user = "x"\n[json]\ntensor = "J"\nalways = { mode = "fast" }\n[inputs]\nprompt = "P"\n'
    with pytest.raises(BadMapping, match=problem):
        file_of(f'{start}{place}\n[outputs]\ntext = "T"\n')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("end = {}", "`tensor` or a `text` for `end`"),
        ("finish_reason = { none = [''] }", "`tensor` of the output `finish_reason`"),
    ],
)
def test_outputs_have_a_tensor(text: str, problem: str) -> None:
    with pytest.raises(BadMapping, match=problem):
        file_of(MINIMAL + text + "\n")
    with pytest.raises(BadMapping, match="`tensor` of the output `text`"):
        file_of('inputs.prompt = "P"\noutputs.text = { json = "a" }\n')


def test_texts_are_sent_as_texts() -> None:
    for table in ('json = { tensor = "J", type = "INT32" }', 'messages = { tensor = "M", type = "INT32" }'):
        with pytest.raises(BadMapping, match="the type INT32"):
            file_of(f"{table}\n{MINIMAL}")
    with pytest.raises(BadMapping, match="rank 0"):
        file_of(f'messages = {{ tensor = "M", as = "list", rank = 0 }}\n{MINIMAL}')


# ---- One value in one tensor


@pytest.mark.parametrize(
    "places",
    [
        'inputs.max_tokens = "X"\ninputs.top_k = "X"',
        'inputs.max_tokens = "X"\nalways.X = 1',
        'always.X = true\nwhen_streaming."Y|X" = true',
        'messages = "text_input"\nalways.text_input = "x"',
        'json.tensor = "text_input"',
    ],
)
def test_two_values_for_one_tensor_make_the_model_unusable(places: str) -> None:
    tensor = "X:BOOL" if "true" in places else "X:INT32"
    with pytest.raises(UnusableModel, match=r"its input '.*' would get .* and "):
        mapped_to(places, tensor)


def test_alternatives_may_have_the_same_tensor() -> None:
    mapped_to('messages = "text_input"\nwhen_streaming.X = true\nwhen_whole.X = false', "X:BOOL")
    mapped_to('inputs.json_schema = "guide"\ninputs.regex = "guide"', "guide:BYTES")


def test_constant_keys_are_merged_with_inputs() -> None:
    text = """
        [json]
        tensor = "J"
        always = { sampling = { keep = 1 } }
        [inputs]
        prompt = "P"
        temperature = { key = "sampling.temperature" }
        [outputs]
        text = "T"
        """
    call = call_of(mapped(text), temperature=0.5)
    assert json.loads(inputs_of(call)["J"][0]) == {"sampling": {"keep": 1, "temperature": 0.5}}


def test_extending_merges_the_json_object_and_the_address() -> None:
    text = 'extends = "triton_vllm"\n[json]\nalways = { guided = 1 }\n[outputs]\nend = "rpc"\n'
    file = file_of(text)
    assert file.json is not None
    assert (file.json.tensor, file.json.always) == ("sampling_parameters", {"guided": 1})
    address = file_of('extends = "anyserve_poc"\n[address]\nversion = "2"\n').address
    assert (address.whole, address.version) == ("generate", "2")


# ---- Inputs that a model requires


@pytest.mark.parametrize(
    ("places", "decoupled", "is_used"),
    [
        ("when_streaming.X = true\nwhen_whole.X = false", None, True),
        ("when_streaming.X = true", None, False),
        ("when_streaming.X = true", True, True),
        ("when_whole.X = true", False, True),
        ('messages = "X"', None, False),
        ('messages = { tensor = "text_input", system = "X" }', None, False),
    ],
)
def test_required_inputs_must_be_in_every_request(places: str, decoupled: bool | None, is_used: bool) -> None:
    text = (
        f'{places}\nrecognize = {{ has_required = true }}\ninputs.prompt = "text_input"\noutputs.text = "text_output"\n'
    )
    datatype = "BYTES" if "messages" in places else "BOOL"
    required = frozenset({"text_input", "X"})
    description = model(f"X:{datatype}", required=required, is_decoupled=decoupled)
    recognized = Dialects(files=[file_of(text)]).of(description)
    assert (recognized is not None) == is_used


def test_required_messages_are_in_every_request() -> None:
    description = Description(
        model="m", inputs=tensors_of("chat:BYTES"), outputs=tensors_of("reply:BYTES"), required=frozenset({"chat"})
    )
    file = file_of('messages = "chat"\nrecognize = { has_required = true }\noutputs.text = "reply"\n')
    assert Dialects(files=[file]).of(description) is not None
