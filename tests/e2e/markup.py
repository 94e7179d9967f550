"""Makes models whose chat markup consists of user-defined tokens, which llama.cpp recognizes in any text: BPE and
SentencePiece.

Their weights are random: only their tokens matter.
"""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter, TokenType
from numpy.typing import NDArray

from tests.models import gemma3_path, smollm2_path

BPE = "bpe"
SENTENCEPIECE = "sentencepiece"
"""Adds a space before each text, as Llama 2 does."""
MARKUP = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<tool_response>", "</tool_response>")
"""The markup that the template writes."""
OTHER = "<aside>"
"""A user-defined token that the template doesn't write."""
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\nCall with <tool_call></tool_call>:\\n' }}"
    "{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'tool' %}{{- '<tool_response>' + message.content + '</tool_response>' }}"
    "{%- else %}{%- set content = message.content or '' %}"
    "{%- if message.role == 'assistant' and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}{{- content }}"
    "{%- for call in message.tool_calls or [] %}"
    '{{- \'<tool_call>{"name": "\' + call.function.name + \'", "arguments": \' + call.function.arguments | tojson + '
    "'}</tool_call>' }}"
    "{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>' }}{%- endif %}"
)
_WIDTH = 64
_N_TOKENS = 6000
"""Tokens of the SentencePiece model."""


def make(folder: Path) -> dict[str, Path]:
    """Writes the files; returns their paths by name."""
    paths = {name: folder / f"{name}.gguf" for name in (BPE, SENTENCEPIECE)}
    _write(paths[BPE], GGUFReader(smollm2_path()), {})
    replacements = {105: "<|im_start|>", 106: "<|im_end|>", 104: "▁"}
    _write(paths[SENTENCEPIECE], GGUFReader(gemma3_path()), replacements, n_vocab=_N_TOKENS, space=True)
    return paths


def _write(
    path: Path, vocabulary: GGUFReader, replacements: dict[int, str], *, n_vocab: int | None = None, space: bool = False
) -> None:
    def field(name: str) -> list[Any]:
        values: list[Any] = vocabulary.fields[f"tokenizer.ggml.{name}"].contents()
        return values[:n_vocab]

    tokens, types = field("tokens"), field("token_type")
    for token, text in replacements.items():
        tokens[token], types[token] = text, TokenType.NORMAL if text == "▁" else TokenType.CONTROL
    for token, text in enumerate((*MARKUP, OTHER), 10 if n_vocab is None else 20):
        tokens[token], types[token] = text, TokenType.USER_DEFINED

    writer = GGUFWriter(path, "qwen3")
    for name, value in vocabulary.fields.items():
        if name.startswith("tokenizer.") and not name.endswith(
            ("tokens", "token_type", "scores", "chat_template", "add_space_prefix")
        ):
            writer.add_key_value(name, value.contents(), value.types[0], value.types[-1] if value.types[1:] else None)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if "tokenizer.ggml.scores" in vocabulary.fields:
        writer.add_token_scores(field("scores"))
    writer.add_add_space_prefix(space)
    writer.add_chat_template(TEMPLATE)
    writer.add_context_length(2048)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    for name, values in _weights(len(tokens)).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(n_vocab: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(5)

    def normal(*shape: int) -> NDArray[Any]:
        values: NDArray[Any] = random.standard_normal(shape) / np.sqrt(shape[-1])
        return values.astype(np.float32)

    ones = np.ones(_WIDTH, np.float32)
    weights = {"token_embd.weight": normal(n_vocab, _WIDTH), "output_norm.weight": ones}
    weights |= {f"blk.0.{name}_norm.weight": ones for name in ("attn", "ffn")}
    weights |= {f"blk.0.attn_{name}_norm.weight": ones[: _WIDTH // 4] for name in "qk"}
    weights |= {f"blk.0.attn_{name}.weight": normal(_WIDTH, _WIDTH) for name in ("q", "k", "v", "output")}
    weights |= {f"blk.0.ffn_{name}.weight": normal(_WIDTH, _WIDTH) for name in ("gate", "up", "down")}
    return weights
