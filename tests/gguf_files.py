"""GGUF files built by hand: a tiny model that works, and variants with any defect.

The `gguf` package can't write defective files.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
"""Types of metadata values."""
ALIGNMENT = 32
WIDTH, HIDDEN, HEADS = 32, 64, 4
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of tokens."""


@dataclass(frozen=True)
class Raw:
    """A value with the bytes that are written for it."""

    kind: int
    data: bytes


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> tuple[int, bytes]:
    match value:
        case Raw():
            return value.kind, value.data
        case bool():
            return BOOL, struct.pack("<?", value)
        case int():
            return UINT32, struct.pack("<I", value)
        case float():
            return FLOAT32, struct.pack("<f", value)
        case str():
            return STRING, string(value)
        case list():
            kind = _value(value[0])[0] if value else INT32
            return ARRAY, struct.pack("<IQ", kind, len(value)) + b"".join(_value(element)[1] for element in value)
    raise TypeError(value)


@dataclass
class Tensor:
    """`shape` is in GGUF's order, the length of a row first. `offset` None: the tensor follows the previous one."""

    values: NDArray[np.float32]
    shape: list[int] = field(default_factory=list)
    kind: int = 0
    """Type of the values; 0 is F32."""
    offset: int | None = None


@dataclass
class Model:
    """Metadata and tensors of a model, which a test can change before it is written."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_metadata: int | None = None

    def data(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_metadata = len(self.metadata) if self.n_metadata is None else self.n_metadata
        head = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_metadata)
        for key, value in self.metadata.items():
            kind, data = _value(value)
            head += string(key) + struct.pack("<I", kind) + data
        weights = b""
        for name, tensor in self.tensors.items():
            offset = len(weights) if tensor.offset is None else tensor.offset
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            head += string(name) + shape + struct.pack("<IQ", tensor.kind, offset)
            weights += _padded(tensor.values.tobytes())
        return _padded(head) + weights


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def _tensor(*shape: int) -> Tensor:
    random = np.random.default_rng(len(shape) + shape[0])
    values = random.standard_normal(shape[::-1]) * 0.1 if len(shape) > 1 else np.ones(shape)
    return Tensor(values.astype(np.float32), list(shape))


def _layer(name: str) -> dict[str, Tensor]:
    square = {f"{name}.attn_{part}.weight": _tensor(WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    return square | {
        f"{name}.attn_norm.weight": _tensor(WIDTH),
        f"{name}.ffn_norm.weight": _tensor(WIDTH),
        f"{name}.ffn_gate.weight": _tensor(WIDTH, HIDDEN),
        f"{name}.ffn_up.weight": _tensor(WIDTH, HIDDEN),
        f"{name}.ffn_down.weight": _tensor(HIDDEN, WIDTH),
    }


def tiny() -> Model:
    """Returns a model of 286 tokens and one layer, 85 KB, that generates nonsense."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(97, 123))]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 27]
    return Model(
        {
            "general.architecture": "llama",
            "llama.context_length": 256,
            "llama.embedding_length": WIDTH,
            "llama.block_count": 1,
            "llama.feed_forward_length": HIDDEN,
            "llama.attention.head_count": HEADS,
            "llama.attention.head_count_kv": HEADS,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.dimension_count": WIDTH // HEADS,
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
            "tokenizer.ggml.token_type": [Raw(INT32, struct.pack("<i", kind)) for kind in types],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        },
        {
            "token_embd.weight": _tensor(WIDTH, len(tokens)),
            "output_norm.weight": _tensor(WIDTH),
            **_layer("blk.0"),
        },
    )
