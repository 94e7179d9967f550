"""The dialect of each kind of model follows from what its server reports."""

import pytest
from msgspec.structs import replace

from openai_server.backends.dialects.base import Rpc
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.dialects.description import Description, ServerDescription, TensorDescription
from openai_server.backends.dialects.mapping.load import builtin_files, parse
from protos import contract
from tests.openai_server.backends.dialects.mapping import models
from tests.openai_server.backends.dialects.mapping.models import call_of, dialect_of, tensors_of


@pytest.mark.parametrize(
    ("description", "name", "rpc"),
    [
        (models.VLLM, "triton_vllm", Rpc.STREAM),
        (models.ENSEMBLE, "trtllm", Rpc.STREAM),
        (models.BLS, "trtllm", Rpc.STREAM),
        (models.LLMAPI, "llmapi", Rpc.UNARY),
        (models.DYNAMO, "dynamo", Rpc.STREAM),
        (models.MLSERVER, "mlserver", Rpc.UNARY),
        (models.POC, "anyserve_poc", Rpc.UNARY),
        (models.TUTORIAL, "anyserve", Rpc.EITHER),
        (models.PLAIN, "text_input", Rpc.UNARY),
        (replace(models.PLAIN, server=ServerDescription("kserve")), "kserve", Rpc.UNARY),
        (Description(model="m", has_metadata=False), "anyserve", Rpc.EITHER),
        (
            Description(model="m", inputs=tensors_of("PROMPT:BYTES"), outputs=tensors_of("TEXT:BYTES")),
            "text_input",
            Rpc.UNARY,
        ),
    ],
)
def test_a_model_is_recognized_by_its_metadata(description: Description, name: str, rpc: Rpc) -> None:
    dialect = dialect_of(description)
    assert (dialect.name, call_of(dialect).rpc) == (name, rpc)


@pytest.mark.parametrize(
    "description",
    [
        models.PREPROCESSING,
        models.KSERVE,
        Description(model="m"),
        Description(model="m", inputs=tensors_of("text_input:INT32"), outputs=tensors_of("text_output:BYTES")),
        Description(model="m", inputs=tensors_of("text_input:BYTES"), outputs=tensors_of("label:BYTES")),
    ],
)
def test_other_models_are_not_recognized(description: Description) -> None:
    assert Dialects().of(description) is None


@pytest.mark.parametrize(("decoupled", "rpc"), [(True, Rpc.STREAM), (False, Rpc.EITHER), (None, Rpc.STREAM)])
def test_a_decoupled_model_with_this_contract_is_called_by_stream(decoupled: bool | None, rpc: Rpc) -> None:
    description = Description(
        model="m",
        server=models.TRITON,
        is_decoupled=decoupled,
        inputs=tensors_of("prompt:BYTES temperature:FP64", (-1, 1)),
        outputs=tensors_of("token:BYTES"),
    )
    call = call_of(dialect_of(description), temperature=0.5)
    assert call.rpc is rpc
    shapes = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in call.request.inputs}
    assert shapes == {"prompt": ("BYTES", [1, 1]), "temperature": ("FP64", [1, 1])}
    assert (contract.PARAM_EMPTY_FINAL in call.request.parameters) == (decoupled is not False)


def test_a_model_with_other_required_inputs_has_another_contract() -> None:
    description = Description(
        model="m",
        inputs=tensors_of("prompt:BYTES ignore_me:BOOL"),
        outputs=tensors_of("text:BYTES"),
        required=frozenset({"prompt", "ignore_me"}),
    )
    assert Dialects().of(description) is None


def test_the_bundled_worker_is_recognized_by_its_extensions() -> None:
    server = ServerDescription("anyserve_worker", frozenset({contract.EXTENSION_PINGS}))
    description = Description(model="m", server=server, inputs=(TensorDescription("prompt", "BYTES", (1,)),))
    recognized = Dialects().of(description)
    assert recognized is not None
    assert (recognized.dialect.name, recognized.reason) == ("anyserve", "the server has this project's extensions")


def test_an_option_overrides_the_metadata() -> None:
    dialects = Dialects({"vllm_model": "text_input", "vllm_model@2": "trtllm"})
    names = {}
    for version in ("", "1", "2"):
        recognized = dialects.of(models.VLLM.__class__(model="vllm_model", version=version))
        assert recognized is not None
        names[version] = recognized.dialect.name
    assert names == {"": "text_input", "1": "text_input", "2": "trtllm"}
    with pytest.raises(KeyError):
        Dialects({"m": "nothing"})


def test_a_mapping_file_is_used_for_the_models_that_it_names() -> None:
    tables = {"models": ["qw*"], "inputs": {"prompt": "text_input"}, "outputs": {"text": "text_output"}}
    dialects = Dialects(files=[parse(tables, "mine")])
    recognized = dialects.of(models.DYNAMO)
    assert recognized is not None
    assert recognized.dialect.name == "mine"
    assert (other := dialects.of(models.VLLM)) is not None
    assert other.dialect.name == "triton_vllm"


def test_each_built_in_file_is_valid_and_has_a_description() -> None:
    files = builtin_files()
    assert len(files) >= 8
    assert all(file.description and file.name == name for name, file in files.items())
    assert list(files)[-1] == "text_input", "it also fits models for which there is a better one"


def test_a_streaming_model_of_mlserver_is_called_for_its_own_kind_of_responses() -> None:
    description = replace(models.PLAIN, server=ServerDescription("mlserver"))
    assert Dialects().of(description).dialect.name == "text_input"  # type: ignore[union-attr]
    recognized = Dialects({"plain": "mlserver_stream"}).of(description)
    assert recognized is not None
    assert call_of(recognized.dialect, streams=True).rpc is Rpc.BARE_STREAM


def test_seldons_chats_are_recognized_by_their_columns() -> None:
    dialect = dialect_of(models.SELDON)
    assert (dialect.name, dialect.takes_messages) == ("seldon", True)
    labels = replace(models.SELDON, outputs=tensors_of("content:BYTES label:BYTES"))
    assert Dialects().of(labels) is None
