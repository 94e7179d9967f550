"""llama.cpp's numbers and structs that our code relies on, compared with the library that is loaded. PURE.

ctypes accepts any number, and any attribute of a struct: with another release, a value that has come to mean something
else, or a field that is gone, would be a wrong answer or a crash. `native.py` calls `check` before anything is used.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from anyserve_worker.core.errors import LoadError

PINNED = "0.3.36"
"""The release of llama-cpp-python that this file was written for."""

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
"""Types of K and V cells by ggml's names for them, to `enum ggml_type`."""
FLASH_ATTENTION_TYPES = {"auto": -1, "off": 0, "on": 1}
"""`enum llama_flash_attn_type`."""
LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
"""(mmap, mlock) to `enum llama_load_mode`."""
NO_TOKEN = -1
"""A token that a vocabulary lacks; `model.py` takes any id below 0 for one."""
LOG_LEVEL_ERROR = 4
"""A value of `enum ggml_log_level`, which llama_cpp doesn't have; a test compares it with the header."""
DECODE_NO_ROOM = 1
"""Status of `llama_decode`: no cells are free for the batch. Only llama.h's comment has it."""

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
"""llama_cpp's attributes and our values. It lacks GGML_TYPE_BF16, which is compared by name in the library alone."""
SIZES = {"llama_token": 4, "llama_pos": 4, "llama_seq_id": 4}
"""Types and their bytes: those of the items of array("i"), which a batch points to."""
FIELDS = {
    "llama_batch": ("n_tokens", "token", "embd", "pos", "n_seq_id", "seq_id", "logits"),
    "llama_model_params": ("n_gpu_layers", "load_mode", "progress_callback", "no_alloc"),
    "llama_context_params": (
        *("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_outputs_max", "n_threads", "n_threads_batch"),
        *("pooling_type", "flash_attn_type", "type_k", "type_v", "embeddings", "no_perf", "swa_full", "kv_unified"),
    ),
}
"""Structs and their fields that are set. All of a batch's are filled, so it must have no others."""
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
"""Values in the structs of `<name>_default_params`, from the beginning to the end: the library fills the struct and
llama_cpp reads it, so they are found only where both agree on its layout."""


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
