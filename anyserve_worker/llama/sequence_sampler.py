"""Samplers of one sequence, on the logits of a step.

Biases and guides change the logits in place, in llama.cpp's own buffer, before the token is drawn from them.
"""

import ctypes
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Any

import numpy as np

from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.llama.native import llama
from anyserve_worker.sampling.chain import SeenPrompt, chain
from anyserve_worker.sampling.draw import DirectSampler, Distribution, Logits, Scratch, TokenIds
from anyserve_worker.scheduling.sequence import Sampler, Sequence


class LogitRows:
    """The logits of a context's last step, by row of its batch."""

    def __init__(self, ctx: Any, n_vocab: int) -> None:
        self._ctx = ctx
        self._row_type = ctypes.c_float * n_vocab
        self._views: dict[int, Logits] = {}
        """Views by address, since llama.cpp reuses the same memory for its logits."""

    def __getitem__(self, row: int) -> Logits:
        """Returns a view of llama.cpp's memory, shape [n_vocab], valid until the next step."""
        address = ctypes.addressof(llama.llama_get_logits_ith(self._ctx, row).contents)
        view = self._views.get(address)
        if view is None:
            view = np.frombuffer(memoryview(self._row_type.from_address(address)), dtype=np.float32)
            self._views[address] = view
        return view


class LogitsSampler:
    """Draws from llama.cpp's logits in place."""

    def __init__(self, direct: DirectSampler, rows: LogitRows) -> None:
        self._direct = direct
        self._rows = rows

    def sample(self, row: int) -> int:
        return self._direct.sample(self._rows[row])

    def accept(self, token: int) -> None:
        """Takes a token that was not drawn."""
        self._direct.accept(token)


class EditingSampler:
    """Applies biases, minimum tokens and guide to the logits before `drawing` draws. Ends reasoning beyond its limit.
    Records log probabilities."""

    def __init__(
        self,
        drawing: LogitsSampler,
        sequence: Sequence,
        rows: LogitRows,
        end_tokens: TokenIds,
        written: Callable[[int], bytes],
    ) -> None:
        """`end_tokens`: tokens with which the model ends its answer. `written`: the bytes of any token."""
        sampling = sequence.sampling
        self._drawing = drawing
        self._sequence = sequence
        self._rows = rows
        self._biased = np.array([token for token, _ in sampling.logit_bias], dtype=np.int64)
        self._biases = np.array([bias for _, bias in sampling.logit_bias], dtype=np.float32)
        self._end_tokens = end_tokens
        self._written = written
        self._stop_tokens = np.array(sorted(sampling.stop_token_ids), dtype=np.int64)
        self._n_sampled = 0

    @staticmethod
    def is_needed(sequence: Sequence) -> bool:
        sampling = sequence.sampling
        edits = sequence.guide or sampling.logit_bias or sampling.min_tokens or sampling.ignore_eos
        return bool(edits) or sampling.logprobs is not None or sequence.reasoning_limit is not None

    def sample(self, row: int) -> int:
        """Raises WorkerError if no token is allowed."""
        sequence, logits = self._sequence, self._rows[row]
        n_top = sequence.sampling.logprobs
        before = None if n_top is None else Distribution(logits.copy(), n_top)
        limit = sequence.reasoning_limit
        forced = limit.forced(self._accepts) if limit else None
        if forced is None:
            self._edit(logits)
            token = self._drawing.sample(row)
        else:
            token = forced
            self._drawing.accept(token)
        if limit:
            limit.push(token, self._written(token))
        self._n_sampled += 1
        if sequence.guide:
            sequence.guide.accept(token)
        if before:
            sequence.scored.append(before.score(token))
        return token

    def _accepts(self, tokens: Items[int]) -> bool:
        guide = self._sequence.guide
        return guide is None or guide.accepts(tokens)

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
            raise InvalidRequest("the request allows no token at this position")


def new_sampler(
    sequence: Sequence,
    seed: int,
    seen: SeenPrompt,
    *,
    rows: LogitRows,
    end_tokens: TokenIds,
    written: Callable[[int], bytes],
    scratch: Scratch,
) -> Sampler:
    """Returns the sampler of a choice. `seed` is the choice's own; `seen` belongs to its prompt. `end_tokens` and
    `written` are those of EditingSampler."""
    drawing = LogitsSampler(chain(sequence.sampling, seed, seen, scratch), rows)
    if EditingSampler.is_needed(sequence):
        return EditingSampler(drawing, sequence, rows, end_tokens, written)
    return drawing
