"""llama.cpp's constants and structs that our code relies on, and a check of them against the loaded library. PURE.

ctypes accepts any number and any attribute of a struct. With another release, a value with a new meaning or a removed
field would cause a wrong answer or a crash. `native.py` calls `check` before anything else uses llama.cpp.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from anyserve_worker.core.errors import LoadError

PINNED = "0.3.36"
"""The release of llama-cpp-python that this file is written for."""

CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
"""`enum ggml_type` of the types of K and V cells, by ggml's names."""
FLASH_ATTENTION_TYPES = {"auto": -1, "off": 0, "on": 1}
"""`enum llama_flash_attn_type`."""
LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
"""`enum llama_load_mode` by (mmap, mlock)."""
NO_TOKEN = -1
"""Id of a token that the vocabulary lacks. `model.py` treats any negative id as missing."""
LOG_LEVEL_ERROR = 4
"""A value of `enum ggml_log_level`. llama_cpp lacks it, so a test compares it with the header."""
DECODE_NO_ROOM = 1
"""Status of `llama_decode` when no cells are free for the batch. Only a comment in llama.h documents it."""
DECODE_INTERRUPTED = 2
"""Status of `llama_decode` when its abort callback has returned true."""

CONSTANTS = {
    **{f"GGML_TYPE_{name.upper()}": value for name, value in CACHE_TYPES.items() if name != "bf16"},
    "LLAMA_FLASH_ATTN_TYPE_AUTO": FLASH_ATTENTION_TYPES["auto"],
    "LLAMA_FLASH_ATTN_TYPE_DISABLED": FLASH_ATTENTION_TYPES["off"],
    "LLAMA_FLASH_ATTN_TYPE_ENABLED": FLASH_ATTENTION_TYPES["on"],
    "LLAMA_TOKEN_NULL": NO_TOKEN,
    "LLAMA_LOAD_MODE_NONE": LOAD_MODES[False, False],
    "LLAMA_LOAD_MODE_MMAP": LOAD_MODES[True, False],
    "LLAMA_LOAD_MODE_MLOCK": LOAD_MODES[False, True],
    "LLAMA_LOAD_MODE_MMAP_MLOCK": LOAD_MODES[True, True],
}
"""Our values of llama_cpp's attributes. It lacks GGML_TYPE_BF16, which only the check by type name covers."""
SIZES = {"llama_token": 4, "llama_pos": 4, "llama_seq_id": 4}
"""Bytes of the types that a batch points to: they must be those of the items of array("i")."""
FIELDS = {
    "llama_batch": ("n_tokens", "token", "embd", "pos", "n_seq_id", "seq_id", "logits"),
    "llama_model_params": ("n_gpu_layers", "load_mode", "progress_callback", "no_alloc"),
    "llama_context_params": (
        *("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_outputs_max", "n_threads", "n_threads_batch"),
        *("pooling_type", "flash_attn_type", "type_k", "type_v", "embeddings", "no_perf", "swa_full", "kv_unified"),
    ),
}
"""The fields that we set, by struct. We fill all fields of a batch, so it must have no others."""
DEFAULTS = {
    "llama_model": {"n_gpu_layers": -1, "load_mode": -1, "use_extra_bufts": True, "no_alloc": False},
    "llama_context": {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "n_outputs_max": 0,
        "pooling_type": -1,
        "flash_attn_type": -1,
        "type_k": 1,
        "type_v": 1,
        "embeddings": False,
        "swa_full": True,
        "kv_unified": False,
    },
}
"""Values of fields across the structs of `<name>_default_params`. The library fills the struct and llama_cpp reads it,
so the values match only if both have the same layout."""


def check(bindings: Any, type_name: Callable[[int], bytes]) -> None:
    """Raises LoadError for the first difference. `bindings`: the module llama_cpp; `type_name`: `ggml_type_name`."""
    for name, value in CONSTANTS.items():
        _compare(bindings, name, value, getattr(bindings, name, None))
    for name, value in CACHE_TYPES.items():
        _compare(bindings, f"ggml_type_name({value})", name, type_name(value).decode())
    for name, size in SIZES.items():
        _compare(bindings, f"sizeof({name})", size, _size(bindings, name))
    for name, fields in FIELDS.items():
        present = tuple(field for field, *_ in getattr(getattr(bindings, name, None), "_fields_", ()))
        relevant = present if name == "llama_batch" else tuple(field for field in fields if field in present)
        _compare(bindings, f"fields of {name}", " ".join(fields), " ".join(relevant))
    for name, defaults in DEFAULTS.items():
        params = getattr(bindings, f"{name}_default_params")()
        for field, value in defaults.items():
            _compare(bindings, f"default {field} of {name}_params", value, getattr(params, field))


def _compare(bindings: Any, name: str, expected: object, found: object) -> None:
    if found != expected:
        raise LoadError(
            f"llama_cpp {getattr(bindings, '__version__', '')}: {name} is {found}, not {expected}; "
            f"llama-cpp-python {PINNED} is needed"
        )


def _size(bindings: Any, name: str) -> int | None:
    kind = getattr(bindings, name, None)
    return None if kind is None else ctypes.sizeof(kind)
