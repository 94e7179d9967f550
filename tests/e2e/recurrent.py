"""Makes tiny models with a recurrent state, which cannot be truncated. Their random weights are always the same.

The vocabulary is SmolLM2's, but they generate only a few words. Each word is one token wherever it is, so that a
response's text, as part of a longer prompt, becomes the tokens that were sampled.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter, ReaderField
from numpy.typing import NDArray

from tests.models import smollm2_path

MAMBA = "mamba"
"""A model with only a state."""
JAMBA = "jamba"
"""A hybrid: a layer with a state, then one with attention and KV cells."""

TOOL_TEMPLATE = "{{ tools | tojson }}"
"""The mamba model has this chat template for tools."""

_CONTEXT = 2048
_LAYERS = 2
_WIDTH = 64
_INNER = 2 * _WIDTH
_STATE = 16
_CONV = 4
_RANK = 4
_HEADS = 4
_WORDS = 200


def make(folder: Path) -> dict[str, Path]:
    """Writes a file for each architecture; returns their paths by name."""
    fields = GGUFReader(smollm2_path()).fields
    vocabulary = {name: field for name, field in fields.items() if name.startswith("tokenizer.")}
    paths = {architecture: folder / f"{architecture}.gguf" for architecture in (MAMBA, JAMBA)}
    for architecture, path in paths.items():
        _write(architecture, path, vocabulary)
    return paths


def _write(architecture: str, path: Path, vocabulary: dict[str, ReaderField]) -> None:
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER if architecture == JAMBA else 0)
    writer.add_head_count(_HEADS if architecture == JAMBA else 0)
    writer.add_head_count_kv([0, _HEADS] if architecture == JAMBA else 0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(_CONV)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)
    for name, field in vocabulary.items():
        writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)
    if architecture == MAMBA:
        writer.add_string("tokenizer.chat_template.tool_use", TOOL_TEMPLATE)
    for name, values in _weights(architecture, vocabulary["tokenizer.ggml.tokens"].contents()).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(architecture: str, tokens: list[str]) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(7)

    def normal(*shape: int, scale: float = 1.0) -> NDArray[Any]:
        """Returns a random matrix; a product with it is about `scale` times as large as the other factor."""
        values: NDArray[Any] = random.standard_normal(shape) * scale / np.sqrt(shape[-1])
        return values

    words = [i for i, token in enumerate(tokens) if re.fullmatch("Ġ[a-z]{4,}", token)][:_WORDS]
    output = np.zeros((len(tokens), _WIDTH))
    output[words] = normal(_WORDS, _WIDTH, scale=4)
    weights = {
        "token_embd.weight": random.standard_normal((len(tokens), _WIDTH)),
        "output_norm.weight": np.ones(_WIDTH),
        "output.weight": output,
    }

    def state(layer: str) -> None:
        # Some parts of the state last for a few tokens, some for hundreds, and it weighs more than the last token.
        steps = np.exp(random.uniform(np.log(0.0005), np.log(0.01), _INNER))
        weights[layer + "ssm_in.weight"] = normal(2 * _INNER, _WIDTH)
        weights[layer + "ssm_conv1d.weight"] = normal(_INNER, _CONV)
        weights[layer + "ssm_conv1d.bias"] = np.zeros(_INNER)
        weights[layer + "ssm_x.weight"] = normal(_RANK + 2 * _STATE, _INNER, scale=8)
        weights[layer + "ssm_dt.weight"] = normal(_INNER, _RANK, scale=0.1)
        weights[layer + "ssm_dt.bias"] = np.log(np.expm1(steps))
        weights[layer + "ssm_a"] = -np.tile(np.arange(1.0, _STATE + 1), (_INNER, 1))
        weights[layer + "ssm_d"] = np.full(_INNER, 0.1)
        weights[layer + "ssm_out.weight"] = normal(_WIDTH, _INNER, scale=8)
        if architecture == JAMBA:
            for name, size in (("dt", _RANK), ("b", _STATE), ("c", _STATE)):
                weights[layer + f"ssm_{name}_norm.weight"] = np.ones(size)

    def attention(layer: str) -> None:
        for name in ("q", "k", "v", "output"):
            weights[layer + f"attn_{name}.weight"] = normal(_WIDTH, _WIDTH, scale=2)

    def feed_forward(layer: str) -> None:
        weights[layer + "ffn_norm.weight"] = np.ones(_WIDTH)
        weights[layer + "ffn_gate.weight"] = normal(_INNER, _WIDTH)
        weights[layer + "ffn_up.weight"] = normal(_INNER, _WIDTH)
        weights[layer + "ffn_down.weight"] = normal(_WIDTH, _INNER)

    for i in range(_LAYERS):
        layer = f"blk.{i}."
        weights[layer + "attn_norm.weight"] = np.ones(_WIDTH)
        if architecture == JAMBA and i == 1:
            attention(layer)
        else:
            state(layer)
        if architecture == JAMBA:
            feed_forward(layer)
    return {name: values.astype(np.float32) for name, values in weights.items()}
