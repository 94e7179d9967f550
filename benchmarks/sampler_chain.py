"""llama.cpp's own sampler chain on given logits: the reference for our samplers, in benchmarks and in tests."""

from __future__ import annotations

import ctypes
from array import array
from typing import Any

import llama_cpp as llama
import numpy as np
import numpy.typing as npt

from anyserve_worker.core.sampling_parameters import SamplingParameters

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
FLOOR = 1e-30
"""Minimum probability, relative to the likeliest token's. A probability of 0 would make entropies NaN."""


class Chain:
    """The samplers of one choice after a prompt."""

    def __init__(
        self, sampling: SamplingParameters, seed: int, prompt: array[int], vocab: Any, n_vocab: int, n_ctx: int
    ) -> None:
        """`vocab` may be None without DRY. `n_ctx` is the number of tokens that a look-back of -1 covers."""
        self._n_vocab = n_vocab
        self._candidates = np.zeros(n_vocab, dtype=CANDIDATE)
        params = llama.llama_sampler_chain_default_params()
        params.no_perf = True
        self.handle = llama.llama_sampler_chain_init(params)
        self._add_penalties(sampling, prompt, n_ctx)
        self._add_dry(sampling, prompt, vocab, n_ctx)
        self._add_truncations(sampling, seed)

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        token = self.apply(logits)[0]
        llama.llama_sampler_accept(self.handle, token)
        return token

    def apply(self, logits: npt.NDArray[np.float32]) -> tuple[int, npt.NDArray[Any]]:
        """Returns the drawn token, and the candidates that were left."""
        self.fill(logits)
        return self.pick()

    def fill(self, logits: npt.NDArray[np.float32]) -> None:
        """Sets the whole vocabulary as candidates."""
        self._candidates["id"] = np.arange(self._n_vocab, dtype=np.int32)
        self._candidates["logit"] = logits
        self._candidates["p"] = 0

    def pick(self) -> tuple[int, npt.NDArray[Any]]:
        """Returns the drawn token, and the candidates that were left. Call it once after `fill`."""
        candidates = self._candidates
        left = llama.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, llama.llama_token_data_p),
            size=self._n_vocab,
            selected=-1,
            sorted=False,
        )
        llama.llama_sampler_apply(self.handle, ctypes.byref(left))
        # XTC moves the start of the array rather than the candidates.
        start = (ctypes.cast(left.data, ctypes.c_void_p).value or 0) - candidates.ctypes.data
        first = start // CANDIDATE.itemsize
        found = candidates[first : first + left.size]
        return int(found["id"][left.selected]) if left.selected >= 0 else -1, found

    def free(self) -> None:
        llama.llama_sampler_free(self.handle)

    def _add(self, sampler: Any) -> None:
        llama.llama_sampler_chain_add(self.handle, sampler)

    def _add_penalties(self, sampling: SamplingParameters, prompt: array[int], n_ctx: int) -> None:
        last_n = look_back(sampling.repeat_last_n, n_ctx)
        presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
        if sampling.repetition_penalty != 1 and last_n:
            repetition = llama.llama_sampler_init_penalties(self._n_vocab, last_n, sampling.repetition_penalty, 0, 0)
            for token in prompt[-last_n:]:
                llama.llama_sampler_accept(repetition, token)
            self._add(repetition)
        if (presence or frequency) and last_n:
            self._add(llama.llama_sampler_init_penalties(self._n_vocab, last_n, 1, frequency, presence))

    def _add_dry(self, sampling: SamplingParameters, prompt: array[int], vocab: Any, n_ctx: int) -> None:
        last_n = look_back(sampling.dry_penalty_last_n, n_ctx)
        if not sampling.dry_multiplier or not last_n:
            return
        breakers = [text.encode() for text in sampling.dry_sequence_breakers]
        dry = llama.llama_sampler_init_dry(
            vocab,
            sampling.dry_multiplier,
            sampling.dry_base,
            sampling.dry_allowed_length,
            last_n,
            (ctypes.c_char_p * len(breakers))(*breakers),
            len(breakers),
        )
        for token in prompt[-last_n:]:
            llama.llama_sampler_accept(dry, token)
        self._add(dry)

    def _add_truncations(self, sampling: SamplingParameters, seed: int) -> None:
        if sampling.temperature == 0:
            self._add(llama.llama_sampler_init_greedy())
            return
        tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
        if sampling.mirostat:
            self._add(llama.llama_sampler_init_temp(sampling.temperature))
            self._add(llama.llama_sampler_init_min_p(FLOOR, 1))
            if sampling.mirostat == 1:
                self._add(llama.llama_sampler_init_mirostat(self._n_vocab, seed, tau, eta, 100))
            else:
                self._add(llama.llama_sampler_init_mirostat_v2(seed, tau, eta))
            return
        if sampling.top_n_sigma:
            self._add(llama.llama_sampler_init_top_n_sigma(sampling.top_n_sigma))
        if sampling.top_k > 0:
            self._add(llama.llama_sampler_init_top_k(sampling.top_k))
        if sampling.typical_p < 1:
            self._add(llama.llama_sampler_init_min_p(FLOOR, 1))
            self._add(llama.llama_sampler_init_typical(sampling.typical_p, 1))
        if sampling.top_p < 1:
            self._add(llama.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            self._add(llama.llama_sampler_init_min_p(sampling.min_p, 1))
        if sampling.xtc_probability:
            self._add(llama.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, 1, seed))
        if sampling.temperature != 1:
            self._add(llama.llama_sampler_init_temp(sampling.temperature))
        self._add(llama.llama_sampler_init_dist(seed))


def look_back(last_n: int, n_ctx: int) -> int:
    return n_ctx if last_n < 0 else min(last_n, n_ctx)
