"""Makes rerankers, as no package contains one: an encoder, and a tiny causal model with a rerank template.

The encoder is all-MiniLM-L6-v2 with a random head. Its expected scores can be computed from the original model's
embeddings, and those of the causal model from a second copy without its head.
"""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter, PoolingType
from numpy.typing import NDArray

from tests.models import minilm_path, smollm2_path

ENCODER = "judge"
CAUSAL = "causal-judge"
HEADLESS = "headless"
"""The causal model without its head: it generates and embeds."""

TEMPLATE = "<|im_start|>Does the document answer the query?\n{query}\n---\n{document}<|im_end|>"
_WIDTH = 64
_HEADS = 4
_LAYERS = 2
_CONTEXT = 1024

_random = np.random.default_rng(11)
ENCODER_HEAD: NDArray[Any] = _random.standard_normal((1, 384)).astype(np.float32)
ENCODER_BIAS = 0.25
CAUSAL_HEAD: NDArray[Any] = _random.standard_normal((2, _WIDTH)).astype(np.float32)


def make(folder: Path) -> dict[str, Path]:
    """Writes the files; returns their paths by name."""
    paths = {name: folder / f"{name}.gguf" for name in (ENCODER, CAUSAL, HEADLESS)}
    _write_encoder(paths[ENCODER])
    vocabulary = GGUFReader(smollm2_path())
    _write_causal(paths[CAUSAL], vocabulary, head=True)
    _write_causal(paths[HEADLESS], vocabulary, head=False)
    return paths


def _write_encoder(path: Path) -> None:
    model = GGUFReader(minilm_path())
    writer = GGUFWriter(path, "bert")
    _copy(model, writer, without=("GGUF.", "general.architecture", "bert.pooling_type"))
    writer.add_pooling_type(PoolingType.RANK)
    for tensor in model.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("cls.output.weight", ENCODER_HEAD)
    writer.add_tensor("cls.output.bias", np.array([ENCODER_BIAS], np.float32))
    _finish(writer)


def _write_causal(path: Path, vocabulary: GGUFReader, *, head: bool) -> None:
    writer = GGUFWriter(path, "qwen3")
    _copy(vocabulary, writer, without=("GGUF.", "general.", "llama.", "tokenizer.chat_template"))
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(2 * _WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    if head:
        writer.add_pooling_type(PoolingType.RANK)
        writer.add_classifier_output_labels(["yes", "no"])
        writer.add_chat_template([{"name": "rerank", "template": TEMPLATE}])
        writer.add_tensor("cls.output.weight", CAUSAL_HEAD)
    n_vocab = len(vocabulary.fields["tokenizer.ggml.tokens"].contents())
    for name, values in _weights(n_vocab).items():
        writer.add_tensor(name, values)
    _finish(writer)


def _weights(n_vocab: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(12)

    def normal(*shape: int) -> NDArray[Any]:
        values: NDArray[Any] = random.standard_normal(shape) * 2 / np.sqrt(shape[-1])
        return values.astype(np.float32)

    ones = np.ones(_WIDTH, np.float32)
    weights = {"token_embd.weight": normal(n_vocab, _WIDTH), "output_norm.weight": ones}
    for i in range(_LAYERS):
        weights |= {f"blk.{i}.{name}_norm.weight": ones for name in ("attn", "ffn")}
        weights |= {f"blk.{i}.attn_{name}_norm.weight": ones[: _WIDTH // _HEADS] for name in "qk"}
        weights |= {f"blk.{i}.attn_{name}.weight": normal(_WIDTH, _WIDTH) for name in ("q", "k", "v", "output")}
        weights |= {f"blk.{i}.ffn_{name}.weight": normal(2 * _WIDTH, _WIDTH) for name in ("gate", "up")}
        weights[f"blk.{i}.ffn_down.weight"] = normal(_WIDTH, 2 * _WIDTH)
    return weights


def _copy(model: GGUFReader, writer: GGUFWriter, *, without: tuple[str, ...]) -> None:
    """Copies the metadata, without the keys that begin with one of `without`."""
    for name, field in model.fields.items():
        if not name.startswith(without):
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)


def _finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
