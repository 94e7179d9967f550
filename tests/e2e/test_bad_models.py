"""Files that are not models, and models that crash llama.cpp: the worker logs one line and exits with status 1."""

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import servers
from tests.e2e.messages import infer, outputs
from tests.gguf_files import STRING, Model, Raw, tiny

LAYERS = "llama.block_count"
TOKENS = "tokenizer.ggml.tokens"
N_TOKENS = len(tiny().metadata[TOKENS])

ENDS_LLAMA_CPP: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({LAYERS: 0}, "n_layer"),
    "600 layers": ({LAYERS: 600}, "n_layer"),
    "4294967295 layers": ({LAYERS: 2**32 - 1}, "n_layer"),
    "equal tokens": ({TOKENS: ["a"] * N_TOKENS}, "token"),
    "no tokens for bytes": (
        {TOKENS: [f"t{i}" for i in range(N_TOKENS)], "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (N_TOKENS - 3)},
        "vocabulary",
    ),
    "no expert is used": ({"llama.expert_count": 4}, "n_expert_used"),
    "a norm that can't be computed": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "eps"),
}
"""Changes of the metadata, and a word of the message: llama.cpp asserts, throws or aborts, in one step or another."""
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "a line break in a name": ({"general.architecture": "one\ntwo\x1b[31m"}, "architecture"),
    "a string longer than any file": ({"general.name": Raw(STRING, struct.pack("<Q", 2**63))}, "length"),
}
CASES = ENDS_LLAMA_CPP | INVALID


def changed(metadata: dict[str, Any]) -> Model:
    model = tiny()
    model.metadata |= metadata
    return model


def error_of(*arguments: str) -> str:
    """Returns the only line that is an error."""
    command = (sys.executable, "-m", "anyserve_worker", *arguments, "--port", "0")
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1, result.stderr
    *other_lines, error = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert all("INFO" in line or "load" in line for line in other_lines), result.stderr
    assert error.isprintable()
    return error


@pytest.mark.parametrize("case", CASES)
def test_a_bad_model_is_one_line(case: str, tmp_path: Path) -> None:
    metadata, word = CASES[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(changed(metadata).data())
    error = error_of("--model", str(path))
    assert f"model 'bad': {path}: " in error
    assert word in error.partition(str(path))[2]


def test_the_error_names_the_bad_model_of_several(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(tiny().data())
    bad.write_bytes(changed({LAYERS: 0}).data())
    error = error_of("--model", f"a={good}", "--model", f"b={bad}", "--model", f"c={good}")
    assert f"model 'b': {bad}: " in error


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\3\4" + bytes(1000), b"<!DOCTYPE html>", tiny().data()[:-9000]],
    ids=["empty", "zip", "HTML", "truncated"],
)
def test_a_file_that_is_not_a_model_is_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(data)
    assert f"model 'no': {path}: " in error_of("--model", str(path))


def test_an_odd_model_that_works_is_served(tmp_path: Path) -> None:
    """The model has a token id out of range, a context length beyond 31 bits, and an unknown pooling type."""
    path = tmp_path / "odd.gguf"
    odd = {"tokenizer.ggml.bos_token_id": 2**32 - 1, "llama.context_length": 2**32 - 1, "llama.pooling_type": 99}
    path.write_bytes(changed(odd).data())
    with servers.worker("--model", str(path)) as (process, address), servers.stub(address) as service:
        response = service.ModelInfer(infer("odd", "abc", max_tokens=5, ignore_eos=True))
        assert outputs(response)["completion_tokens"] == [5]
        assert process.end() == 0
