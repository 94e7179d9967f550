"""Calls single ggml operations through the C interface; our patches to llama.cpp change some of them."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

F32, F16 = llama_cpp.GGML_TYPE_F32, llama_cpp.GGML_TYPE_F16
Q4_0, Q4_1, Q8_0 = llama_cpp.GGML_TYPE_Q4_0, llama_cpp.GGML_TYPE_Q4_1, llama_cpp.GGML_TYPE_Q8_0

Floats = NDArray[np.float32]

_LIBRARIES = Path(llama_cpp.__file__).parent / "lib"
_MEMORY = 256 << 20


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def _function(library: str, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    loaded = ctypes.CDLL(str(_LIBRARIES / f"libggml{library}.so"))
    function = getattr(loaded, name)
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]


_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_init = _function("-base", "ggml_init", _P, _InitParams)
_free = _function("-base", "ggml_free", None, _P)
_new_tensor = _function("-base", "ggml_new_tensor_4d", _P, _P, _I, _L, _L, _L, _L)
_data = _function("-base", "ggml_get_data", _P, _P)
_nbytes = _function("-base", "ggml_nbytes", ctypes.c_size_t, _P)
_row_size = _function("-base", "ggml_row_size", ctypes.c_size_t, _I, _L)
_quantize = _function("-base", "ggml_quantize_chunk", ctypes.c_size_t, _I, _P, _P, _L, _L, _L, _P)
_mul_mat = _function("-base", "ggml_mul_mat", _P, _P, _P, _P)
_flash_attn = _function("-base", "ggml_flash_attn_ext", _P, _P, _P, _P, _P, _P, _F, _F, _F)
_add_sinks = _function("-base", "ggml_flash_attn_ext_add_sinks", None, _P, _P)
_new_graph = _function("-base", "ggml_new_graph", _P, _P)
_build = _function("-base", "ggml_build_forward_expand", None, _P, _P)
_compute = _function("-cpu", "ggml_graph_compute_with_ctx", _I, _P, _P, _I)
_cpu_init = _function("-cpu", "ggml_cpu_init", None)
_cpu_reg = _function("-cpu", "ggml_backend_cpu_reg", _P)
_reg_device = _function("-base", "ggml_backend_reg_dev_get", _P, _P, ctypes.c_size_t)
_reg_function = _function("-base", "ggml_backend_reg_get_proc_address", _P, _P, ctypes.c_char_p)
_buffer_type_name = _function("-base", "ggml_backend_buft_name", ctypes.c_char_p, _P)
_alloc_buffer = _function("-base", "ggml_backend_buft_alloc_buffer", _P, _P, ctypes.c_size_t)
_alloc_size = _function("-base", "ggml_backend_buft_get_alloc_size", ctypes.c_size_t, _P, _P)
_buffer_base = _function("-base", "ggml_backend_buffer_get_base", _P, _P)
_buffer_free = _function("-base", "ggml_backend_buffer_free", None, _P)
_tensor_alloc = _function("-base", "ggml_backend_tensor_alloc", _I, _P, _P, _P)
_tensor_set = _function("-base", "ggml_backend_tensor_set", None, _P, _P, ctypes.c_size_t, ctypes.c_size_t)


def weight_buffers() -> dict[str, int]:
    """Buffer types in which this processor's fastest kernels expect weights, by name; the ordinary one is not
    included."""
    _cpu_init()
    registry = _cpu_reg()
    address = _reg_function(registry, b"ggml_backend_dev_get_extra_bufts")
    types = ctypes.CFUNCTYPE(ctypes.POINTER(_P), _P)(address)(_reg_device(registry, 0))
    buffer_types: dict[str, int] = {}
    for buffer_type in types:
        if not buffer_type:
            break
        buffer_types[_buffer_type_name(buffer_type).decode()] = buffer_type
    return buffer_types


class Graph:
    """A context with the tensors of one operation. Shapes are numpy's: the last dimension is the innermost."""

    def __enter__(self) -> "Graph":
        _cpu_init()
        self._ctx = _init(_InitParams(_MEMORY, None, False))
        self._no_alloc = _init(_InitParams(1 << 20, None, True))
        self._buffers: list[int] = []
        return self

    def __exit__(self, *_: object) -> None:
        for buffer in self._buffers:
            _buffer_free(buffer)
        _free(self._no_alloc)
        _free(self._ctx)

    def tensor(self, values: NDArray[Any]) -> int:
        kind = {np.dtype(np.float32): F32, np.dtype(np.float16): F16}[values.dtype]
        tensor: int = _new_tensor(self._ctx, kind, *_shape(values))
        ctypes.memmove(_data(tensor), np.ascontiguousarray(values).ctypes.data, values.nbytes)
        return tensor

    def weights(self, kind: int, quantized: bytes, shape: tuple[int, int], buffer_type: int | None) -> int:
        """Creates a tensor, shape [n, k], from the result of `quantize`. `buffer_type` None means ordinary memory."""
        tensor: int = _new_tensor(self._no_alloc if buffer_type else self._ctx, kind, shape[1], shape[0], 1, 1)
        assert _nbytes(tensor) == len(quantized)
        if buffer_type is None:
            ctypes.memmove(_data(tensor), quantized, len(quantized))
        else:
            buffer = _alloc_buffer(buffer_type, _alloc_size(buffer_type, tensor))
            self._buffers.append(buffer)
            assert _tensor_alloc(buffer, tensor, _buffer_base(buffer)) == 0
            _tensor_set(tensor, quantized, 0, len(quantized))
        return tensor

    def mul_mat(self, weights: int, values: int) -> int:
        tensor: int = _mul_mat(self._ctx, weights, values)
        return tensor

    def flash_attn(
        self, q: int, k: int, v: int, mask: int, sinks: int | None, *, scale: float, max_bias: float, softcap: float
    ) -> int:
        tensor: int = _flash_attn(self._ctx, q, k, v, mask, scale, max_bias, softcap)
        if sinks is not None:
            _add_sinks(tensor, sinks)
        return tensor

    def compute(self, result: int, shape: tuple[int, ...], threads: int) -> Floats:
        graph = _new_graph(self._ctx)
        _build(graph, result)
        assert _compute(self._ctx, graph, threads) == 0
        values = (ctypes.c_float * int(np.prod(shape))).from_address(_data(result))
        return np.array(values, dtype=np.float32).reshape(shape)


def quantize(kind: int, values: Floats) -> bytes:
    """Quantizes the rows of `values`, shape [n, k], into the type's blocks."""
    n, k = values.shape
    buffer = ctypes.create_string_buffer(n * _row_size(kind, k))
    _quantize(kind, np.ascontiguousarray(values).ctypes.data, buffer, 0, n, k, None)
    return buffer.raw


def dequantize(kind: int, quantized: bytes, shape: tuple[int, int]) -> Floats:
    """Returns the values that the blocks encode; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md names the
    formats."""
    size = {Q4_0: 18, Q4_1: 20, Q8_0: 34}[kind]
    blocks = np.frombuffer(quantized, dtype=np.uint8).reshape(-1, size)
    halves = blocks[:, : 4 if kind == Q4_1 else 2].copy().view(np.float16).astype(np.float32)
    data = blocks[:, 4 if kind == Q4_1 else 2 :]
    if kind == Q8_0:
        quants = data.view(np.int8).astype(np.float32)
    else:
        quants = np.concatenate([data & 15, data >> 4], axis=1).astype(np.float32)
    values = halves[:, :1] * (quants - 8 if kind == Q4_0 else quants)
    if kind == Q4_1:
        values += halves[:, 1:]
    return values.reshape(shape)


def _shape(values: NDArray[Any]) -> list[int]:
    shape = list(values.shape[::-1])
    return shape + [1] * (4 - len(shape))
