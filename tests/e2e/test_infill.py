"""Infill, with a model that has tokens for it: SmolLM2 with three of its control tokens declared as such."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from protos import contract, tensors
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import servers
from tests.e2e.messages import infer, trailers
from tests.models import smollm2_path

Service = GRPCInferenceServiceStub
BOS, PREFIX, SUFFIX, MIDDLE = 1, 7, 8, 9
"""Ids of control tokens in SmolLM2's vocabulary."""
BOS_TEXT, PREFIX_TEXT, SUFFIX_TEXT, MIDDLE_TEXT = "<|im_start|>", "<gh_stars>", "<issue_start>", "<issue_comment>"
PLAIN, WITH_BOS = "plain", "with-bos"
N_CTX = 256

BEFORE, AFTER = "The fox sat by the", " and looked at the water."


def make(path: Path, *, adds_bos: bool) -> None:
    reader = GGUFReader(smollm2_path())
    writer = GGUFWriter(path, "llama")
    changed = {
        "tokenizer.ggml.add_bos_token": (adds_bos, GGUFValueType.BOOL),
        "tokenizer.ggml.fim_pre_token_id": (PREFIX, GGUFValueType.UINT32),
        "tokenizer.ggml.fim_suf_token_id": (SUFFIX, GGUFValueType.UINT32),
        "tokenizer.ggml.fim_mid_token_id": (MIDDLE, GGUFValueType.UINT32),
    }
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture" and name not in changed:
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)
    for name, (value, kind) in changed.items():
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A worker that computes equal requests in the same way."""
    with TemporaryDirectory() as folder:
        models = {name: Path(folder) / f"{name}.gguf" for name in (PLAIN, WITH_BOS)}
        for name, path in models.items():
            make(path, adds_bos=name == WITH_BOS)
        options = [f"--model={name}={path}" for name, path in models.items()]
        with (
            servers.worker(*options, f"--n-ctx={N_CTX}", "--parallel", "1", "--no-prefix-cache") as (_, address),
            servers.stub(address) as service,
        ):
            yield service


def greedy(service: Service, model: str, prompt: str | list[int], **inputs: Any) -> dict[str, list[Any]]:
    """Generates greedily, with log probabilities, which distinguish prompts better than texts do."""
    request = infer(model, prompt, **{"max_tokens": 8, "temperature": 0.0, "logprobs": 3, **inputs})
    response = tensors.read_outputs(service.ModelInfer(request))
    return {name: list(tensor.elements) for name, tensor in response.items()}


@pytest.mark.parametrize("before", [BEFORE, ""])
@pytest.mark.parametrize("after", [AFTER, ""])
@pytest.mark.parametrize("model", [PLAIN, WITH_BOS])
def test_the_prompt_is_prefix_suffix_and_middle_in_this_order(
    service: Service, model: str, before: str, after: str
) -> None:
    filled = greedy(service, model, before, suffix=after)
    # A text may contain the same tokens in writing; BOS comes first if the model wants one.
    prefix, suffix = f"{PREFIX_TEXT}{before}", f"{SUFFIX_TEXT}{after}"
    assert filled == greedy(service, model, f"{prefix}{suffix}{MIDDLE_TEXT}")
    assert filled != greedy(service, model, f"{suffix}{prefix}{MIDDLE_TEXT}")
    if model == PLAIN:
        assert filled != greedy(service, model, f"{BOS_TEXT}{prefix}{suffix}{MIDDLE_TEXT}")


def test_an_empty_infill_has_only_the_control_tokens(service: Service) -> None:
    for model, begin in ((PLAIN, []), (WITH_BOS, [BOS])):
        filled = greedy(service, model, "", suffix="")
        assert filled == greedy(service, model, [*begin, PREFIX, SUFFIX, MIDDLE])
        assert filled["prompt_tokens"] == [len(begin) + 3]


@pytest.mark.parametrize("n_words", [N_CTX, 5000, 100_000])
@pytest.mark.parametrize("model", [PLAIN, WITH_BOS])
def test_the_error_names_the_side_that_is_too_long(service: Service, model: str, n_words: int) -> None:
    for inputs, tensor in (
        ({"prompt": " fox" * n_words, "suffix": "end"}, contract.PROMPT),
        ({"prompt": "begin", "suffix": " fox" * n_words}, contract.SUFFIX),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            greedy(service, model, **inputs)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = trailers(refused.value)
        assert details[contract.ERROR_REASON] == contract.REASON_CONTEXT_LENGTH
        assert details[contract.ERROR_TENSOR] == tensor.name


def test_two_sides_that_are_together_too_long_are_refused(service: Service) -> None:
    half = " fox" * (N_CTX // 2 - 2)
    assert greedy(service, PLAIN, half, suffix=half)["prompt_tokens"] == [N_CTX - 1]
    with pytest.raises(grpc.RpcError) as refused:
        greedy(service, PLAIN, half + " fox", suffix=half)
    assert trailers(refused.value)[contract.ERROR_REASON] == contract.REASON_CONTEXT_LENGTH
