"""A step's tokens in llama.cpp's form."""

import ctypes
from array import array
from typing import Any

from anyserve_worker.llama.native import llama


class NativeBatch:
    """A llama_batch on our own arrays, which are created once and filled by slices. Each row has one sequence."""

    def __init__(self, n_rows: int) -> None:
        self._token, self._pos, self._seq_id, self._logits = (
            array(code, bytes(array(code).itemsize * n_rows)) for code in "iiib"
        )
        n_seq_id = array("i", [1]) * n_rows
        first = self._seq_id.buffer_info()[0]
        seq_ids = (ctypes.POINTER(llama.llama_seq_id) * n_rows)(
            *(
                ctypes.cast(first + row * self._seq_id.itemsize, ctypes.POINTER(llama.llama_seq_id))
                for row in range(n_rows)
            )
        )
        self._kept = n_seq_id, seq_ids
        self._native = llama.llama_batch(
            token=_pointer(self._token, llama.llama_token),
            pos=_pointer(self._pos, llama.llama_pos),
            n_seq_id=_pointer(n_seq_id, ctypes.c_int32),
            seq_id=ctypes.cast(seq_ids, ctypes.POINTER(ctypes.POINTER(llama.llama_seq_id))),
            logits=_pointer(self._logits, ctypes.c_int8),
        )
        self.clear()

    def clear(self) -> None:
        self._n = 0

    def add(self, tokens: "array[int]", position: int, seq_id: int, n_logits: int) -> None:
        """Adds tokens of one sequence from `position` on. The last `n_logits` of them need logits."""
        start, end = self._n, self._n + len(tokens)
        self._token[start:end] = tokens
        if len(tokens) == 1:
            self._pos[start], self._seq_id[start], self._logits[start] = position, seq_id, n_logits
        else:
            self._pos[start:end] = array("i", range(position, position + len(tokens)))
            self._seq_id[start:end] = array("i", [seq_id]) * len(tokens)
            self._logits[start:end] = array("b", bytes(len(tokens) - n_logits) + b"\1" * n_logits)
        self._n = end

    def native(self) -> Any:
        self._native.n_tokens = self._n
        return self._native


def _pointer(values: "array[int]", kind: Any) -> Any:
    return ctypes.cast(values.buffer_info()[0], ctypes.POINTER(kind))
