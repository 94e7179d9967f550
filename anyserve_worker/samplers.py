"""Samplers of one sequence, on the logits of a step.

What a request asks of the logits beyond drawing a token (log probabilities, biases, a guide) happens in place, in
llama.cpp's own buffer, before the token is drawn from it.
"""

import ctypes
from typing import Any

import numpy as np

from anyserve_worker.errors import InvalidRequest
from anyserve_worker.native import llama
from anyserve_worker.sampling import (
    MIN_TEMPERATURE,
    DirectSampler,
    Distribution,
    Logits,
    Scratch,
    TokenIds,
    direct_sampler,
)
from anyserve_worker.sequence import Sampler, Sequence

_MIROSTAT_M = 100
"""Likeliest tokens from which version 1 estimates the distribution's shape: the paper's value, and llama.cpp's."""

_NO_PROBABILITY = 1e-30
"""Relative to the likeliest token's."""


class Rows:
    """The logits of a context's last step, by row of its batch."""

    def __init__(self, ctx: Any, n_vocab: int) -> None:
        self._ctx = ctx
        self._row_type = ctypes.c_float * n_vocab
        self._views: dict[int, Logits] = {}
        """By address: llama.cpp puts its logits into the same memory again and again."""

    def __getitem__(self, row: int) -> Logits:
        """Shape [n_vocab]: llama.cpp's own memory, valid until the next step."""
        address = ctypes.addressof(llama.llama_get_logits_ith(self._ctx, row).contents)
        view = self._views.get(address)
        if view is None:
            view = np.frombuffer(memoryview(self._row_type.from_address(address)), dtype=np.float32)
            self._views[address] = view
        return view


class LogitsSampler:
    """Draws from the logits in place."""

    def __init__(self, direct: DirectSampler, rows: Rows) -> None:
        self._direct = direct
        self._rows = rows

    def sample(self, row: int) -> int:
        return self._direct.sample(self._rows[row])

    def free(self) -> None:
        """Holds nothing."""


class EditingSampler:
    """Changes the logits as the request wants it, then lets `drawing` draw; takes down log probabilities."""

    def __init__(self, drawing: Sampler, sequence: Sequence, rows: Rows, end_tokens: TokenIds) -> None:
        """`end_tokens`: those with which the model ends its answer."""
        sampling = sequence.sampling
        self._drawing = drawing
        self._sequence = sequence
        self._rows = rows
        self._biased = np.array([token for token, _ in sampling.logit_bias], dtype=np.int64)
        self._biases = np.array([bias for _, bias in sampling.logit_bias], dtype=np.float32)
        self._end_tokens = end_tokens
        self._stop_tokens = np.array(sorted(sampling.stop_token_ids), dtype=np.int64)
        self._n_sampled = 0

    @staticmethod
    def is_needed(sequence: Sequence) -> bool:
        sampling = sequence.sampling
        edits = sequence.guide or sampling.logit_bias or sampling.min_tokens or sampling.ignore_eos
        return bool(edits) or sampling.logprobs is not None

    def sample(self, row: int) -> int:
        """Raises WorkerError where the guide cannot go on."""
        sequence, logits = self._sequence, self._rows[row]
        n_top = sequence.sampling.logprobs
        before = None if n_top is None else Distribution(logits.copy(), n_top)
        self._edit(logits)
        token = self._drawing.sample(row)
        self._n_sampled += 1
        if sequence.guide:
            sequence.guide.accept(token)
        if before:
            sequence.scored.append(before.score(token))
        return token

    def _edit(self, logits: Logits) -> None:
        sampling, guide = self._sequence.sampling, self._sequence.guide
        np.add.at(logits, self._biased, self._biases)
        too_early = self._n_sampled < sampling.min_tokens
        if too_early or sampling.ignore_eos:
            logits[self._end_tokens] = -np.inf
        if too_early:
            logits[self._stop_tokens] = -np.inf
        if guide:
            guide.mask(logits)
        if (guide or too_early) and logits.max() == -np.inf:
            raise InvalidRequest("no token is left that this request allows at this place")

    def free(self) -> None:
        self._drawing.free()


class Dry:
    """The DRY penalty as it stands behind a prompt, to be copied for each choice.

    llama.cpp looks for the breakers in every token of the vocabulary: 10 ms for the usual ones, seconds for bad ones.
    """

    def __init__(self, sequence: Sequence, vocab: Any, last_n: int) -> None:
        """`last_n`: how far back it looks, in tokens."""
        sampling = sequence.sampling
        breakers = [text.encode() for text in sampling.dry_sequence_breakers]
        self._handle = llama.llama_sampler_init_dry(
            vocab,
            sampling.dry_multiplier,
            sampling.dry_base,
            sampling.dry_allowed_length,
            last_n,
            (ctypes.c_char_p * len(breakers))(*breakers),
            len(breakers),
        )
        _accept_prompt(self._handle, sequence, last_n)

    @classmethod
    def of(cls, sequence: Sequence, vocab: Any, n_ctx: int) -> "Dry | None":
        """None if the request does not ask for it."""
        last_n = _look_back(sequence.sampling.dry_penalty_last_n, n_ctx)
        return cls(sequence, vocab, last_n) if sequence.sampling.dry_multiplier and last_n else None

    def copy(self) -> Any:
        """A handle, which goes over to the caller."""
        return llama.llama_sampler_clone(self._handle)

    def free(self) -> None:
        llama.llama_sampler_free(self._handle)


def _look_back(last_n: int, n_ctx: int) -> int:
    """Tokens, for as many as a request wants: llama.cpp takes room for all of them."""
    return n_ctx if last_n < 0 else min(last_n, n_ctx)


def _accept_prompt(sampler: Any, sequence: Sequence, last_n: int) -> None:
    for token in sequence.tokens[max(0, sequence.n_prompt - last_n) : sequence.n_prompt]:
        llama.llama_sampler_accept(sampler, token)


class NativeSampler:
    """llama.cpp's sampler chain of one sequence, in llama.cpp's own order."""

    def __init__(self, sequence: Sequence, seed: int, dry: Dry | None, ctx: Any, vocab: Any, n_ctx: int) -> None:
        """`n_ctx`: how far back, in tokens, the penalties look that look at everything."""
        self._ctx = ctx
        params = llama.llama_sampler_chain_default_params()
        params.no_perf = True
        self.handle = llama.llama_sampler_chain_init(params)
        n_vocab = llama.llama_vocab_n_tokens(vocab)
        self._add_penalties(sequence, n_vocab, n_ctx)
        if dry:
            self._add(dry.copy())
        self._add_draw(sequence, seed, n_vocab)

    def sample(self, row: int) -> int:
        return int(llama.llama_sampler_sample(self.handle, self._ctx, row))

    def free(self) -> None:
        if self.handle:
            llama.llama_sampler_free(self.handle)
            self.handle = None

    def _add(self, sampler: Any) -> None:
        llama.llama_sampler_chain_add(self.handle, sampler)

    def _add_penalties(self, sequence: Sequence, n_vocab: int, n_ctx: int) -> None:
        sampling = sequence.sampling
        last_n = _look_back(sampling.repeat_last_n, n_ctx)
        if sampling.repetition_penalty != 1 and last_n:
            repetition = llama.llama_sampler_init_penalties(n_vocab, last_n, sampling.repetition_penalty, 0, 0)
            # It knows the prompt; presence and frequency are of the output alone, as in OpenAI's API.
            _accept_prompt(repetition, sequence, last_n)
            self._add(repetition)
        if (sampling.presence_penalty or sampling.frequency_penalty) and last_n:
            self._add(
                llama.llama_sampler_init_penalties(
                    n_vocab, last_n, 1, sampling.frequency_penalty, sampling.presence_penalty
                )
            )

    def _add_draw(self, sequence: Sequence, seed: int, n_vocab: int) -> None:
        sampling = sequence.sampling
        if sampling.temperature < MIN_TEMPERATURE:
            self._add(llama.llama_sampler_init_greedy())
            return
        if sampling.mirostat:
            self._add(llama.llama_sampler_init_temp(sampling.temperature))
            self._add_floor()
            tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
            if sampling.mirostat == 1:
                self._add(llama.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_M))
            else:
                self._add(llama.llama_sampler_init_mirostat_v2(seed, tau, eta))
            return
        if sampling.top_n_sigma:
            self._add(llama.llama_sampler_init_top_n_sigma(sampling.top_n_sigma))
        if sampling.top_k > 0:
            self._add(llama.llama_sampler_init_top_k(sampling.top_k))
        if sampling.typical_p < 1:
            self._add_floor()
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

    def _add_floor(self) -> None:
        """Leaves out tokens of no probability, which a guide makes: entropies that meet a 0 are no numbers."""
        self._add(llama.llama_sampler_init_min_p(_NO_PROBABILITY, 1))


def new_sampler(
    sequence: Sequence,
    seed: int,
    dry: Dry | None,
    *,
    ctx: Any,
    vocab: Any,
    rows: Rows,
    end_tokens: TokenIds,
    scratch: Scratch,
    n_ctx: int,
) -> Sampler:
    """`seed` is that of this choice, `dry` that of its prompt."""
    direct = direct_sampler(sequence.sampling, seed, scratch)
    drawing: Sampler = LogitsSampler(direct, rows) if direct else NativeSampler(sequence, seed, dry, ctx, vocab, n_ctx)
    return EditingSampler(drawing, sequence, rows, end_tokens) if EditingSampler.is_needed(sequence) else drawing
