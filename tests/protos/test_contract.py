"""The contract's table is consistent, and protos/README.md agrees with it."""

from itertools import chain
from pathlib import Path

import pytest

from anyserve_worker.core import errors
from protos import contract, tensors
from protos.contract import ANY, TensorSpec
from protos.grpc_predict_v2_pb2 import DESCRIPTOR

README = (Path(contract.__file__).parent / "README.md").read_text()
SIDES = (
    *(contract.INPUTS, contract.OUTPUTS, contract.STEP_BATCH, contract.MODEL_INFO_OUTPUTS),
    *(side for task in contract.TASKS.values() for side in (task.inputs, task.outputs)),
)
EVERY_SPEC = tuple(chain.from_iterable(SIDES))


def test_the_readme_has_the_generated_tables() -> None:
    _, begin, rest = README.partition("<!-- contract -->\n")
    tables, end, _ = rest.partition("\n<!-- /contract -->")
    assert begin
    assert end
    assert tables == contract.markdown(), "paste the output of: python -m protos.contract"


def test_the_readme_names_every_rpc_and_no_other() -> None:
    section = README.partition("## RPCs")[2].partition("\n## ")[0]
    named = {word for line in section.splitlines() if line.startswith("| `") for word in line.split("|")[1].split("`")}
    methods = {method.name for method in DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    assert {word for word in named if word.strip(" ,")} == methods


def test_the_readme_contains_every_constant_of_the_contract() -> None:
    words = {name: value for name, value in vars(contract).items() if name.isupper() and isinstance(value, str)}
    assert len(words) > 15
    assert not {name: value for name, value in words.items() if f"`{value}`" not in README}


def test_the_readme_has_every_error() -> None:
    section = README.partition("## Errors")[2].partition("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:3] == "| `"]
    listed = {(status, reason) for status, _, reason in rows if status.isupper()}
    types = [t for t in vars(errors).values() if isinstance(t, type) and issubclass(t, errors.WorkerError)]
    assert listed == {(error.status.name, error.reason) for error in types}


def test_tensor_names_are_unique_on_each_side() -> None:
    for specs in SIDES:
        names = [spec.name for spec in specs]
        assert len(set(names)) == len(names)


def test_tensors_with_the_same_name_have_the_same_datatype() -> None:
    """A model's metadata lists the inputs of all its tasks by name."""
    for side in ("inputs", "outputs"):
        kinds = {(spec.name, spec.datatype) for task in contract.TASKS.values() for spec in getattr(task, side)}
        assert len({name for name, _ in kinds}) == len(kinds)


def test_outputs_are_those_of_unary_and_streaming_calls() -> None:
    assert set(contract.OUTPUTS) == set(contract.UNARY_OUTPUTS) | set(contract.STREAM_OUTPUTS)


@pytest.mark.parametrize("spec", EVERY_SPEC, ids=lambda spec: spec.name)
def test_a_spec_follows_the_rules_of_the_table(spec: TensorSpec) -> None:
    assert spec.datatype in ("BYTES", "BOOL", "INT32", "FP32")
    assert spec.name == spec.name.lower()
    assert spec.meaning
    assert "|" not in spec.meaning
    assert all(d == ANY or d > 0 for d in spec.shape)
    if spec.low is not None and spec.high is not None:
        assert spec.low < spec.high
    if spec.datatype in (tensors.BYTES, "BOOL"):
        assert (spec.low, spec.high) == (None, None)


def test_basic_tensors_keep_their_names_and_datatypes() -> None:
    actual = {spec.name: spec.datatype for spec in contract.INPUTS + contract.OUTPUTS}
    expected = {"prompt": "BYTES", "max_tokens": "INT32", "temperature": "FP32", "top_p": "FP32", "top_k": "INT32"}
    expected |= {"text": "BYTES", "token": "BYTES", "finish_reason": "BYTES"}
    assert actual | expected == actual


@pytest.mark.parametrize(
    ("spec_shape", "shape", "accepted"),
    [
        ((1,), (1,), True),
        ((1,), (2,), False),
        ((1,), (0,), False),
        ((1,), (), False),
        ((1,), (1, 1), False),
        ((ANY,), (0,), True),
        ((ANY,), (7,), True),
        ((ANY,), (), False),
        ((ANY,), (2, 3), False),
        ((ANY, 2), (5, 2), True),
        ((ANY, 2), (2, 5), False),
        ((), (), True),
    ],
)
def test_a_spec_accepts_the_shapes_that_match_it(
    spec_shape: tuple[int, ...], shape: tuple[int, ...], accepted: bool
) -> None:
    assert TensorSpec("x", "INT32", spec_shape, "").accepts_shape(shape) is accepted


def test_the_table_shows_ranges() -> None:
    table = contract.markdown()
    assert "| `top_p` | FP32 | [1] | 0…1 |" in table
    assert "| `top_k` | INT32 | [1] | 0… |" in table
    assert "| `seed` | INT32 | [1] | -2³¹…2³¹-1 |" in table
    assert "| `repetition_penalty` | FP32 | [1] | 0.01…10 |" in table
    assert "| `stop` | BYTES | [-1] |  |" in table
