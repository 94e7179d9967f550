"""Builds the samplers of a choice in llama.cpp's order: penalties, truncations or mirostat, draw. PURE."""

from array import array
from collections.abc import Callable

import numpy as np

from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.sampling.breakers import Breakers
from anyserve_worker.sampling.draw import MIN_TEMPERATURE, DirectSampler, Greedy, Plain, Scratch
from anyserve_worker.sampling.dry import Dry, DryPrompt
from anyserve_worker.sampling.penalties import CountPenalty, Penalizing, Penalty, Recency, RepetitionPenalty
from anyserve_worker.sampling.truncation import Mirostat, Truncating


class SeenPrompt:
    """A prompt's state for the penalties, computed once for all of its choices."""

    def __init__(
        self,
        sampling: SamplingParameters,
        prompt: "array[int]",
        n_ctx: int,
        breakers: Callable[[tuple[str, ...]], Breakers],
    ) -> None:
        """`n_ctx`: tokens that penalties without a limit look back at."""
        self.last_n = _look_back(sampling.repeat_last_n, n_ctx)
        self.dry_last_n = _look_back(sampling.dry_penalty_last_n, n_ctx)
        self.recency: Recency | None = None
        self.dry: DryPrompt | None = None
        if looks_back(sampling):
            tokens = np.array(prompt, dtype=np.int32)
            if sampling.repetition_penalty != 1 and self.last_n:
                self.recency = Recency(tokens[-self.last_n :])
            if sampling.dry_multiplier and self.dry_last_n:
                self.dry = DryPrompt(tokens, self.dry_last_n, breakers(sampling.dry_sequence_breakers))


def looks_back(sampling: SamplingParameters) -> bool:
    """Returns whether the penalties need a prompt's state, which takes milliseconds to compute for a long prompt."""
    return sampling.repetition_penalty != 1 or bool(sampling.dry_multiplier)


def chain(sampling: SamplingParameters, seed: int, seen: SeenPrompt, scratch: Scratch) -> DirectSampler:
    """Returns the sampler of a choice with this seed."""
    drawing = _drawing(sampling, seed, scratch)
    penalties: list[Penalty] = []
    if seen.recency:
        penalties.append(RepetitionPenalty(sampling.repetition_penalty, seen.last_n, seen.recency))
    if (sampling.presence_penalty or sampling.frequency_penalty) and seen.last_n:
        penalties.append(CountPenalty(sampling.presence_penalty, sampling.frequency_penalty, seen.last_n))
    if seen.dry:
        penalties.append(Dry(sampling, seen.dry_last_n, seen.dry))
    return Penalizing(penalties, drawing) if penalties else drawing


def _drawing(sampling: SamplingParameters, seed: int, scratch: Scratch) -> DirectSampler:
    if sampling.temperature < MIN_TEMPERATURE:
        return Greedy()
    if sampling.mirostat:
        return Mirostat(sampling, seed, scratch)
    if Truncating.is_needed(sampling):
        return Truncating(sampling, seed, scratch)
    return Plain(sampling.temperature, seed, scratch)


def _look_back(last_n: int, n_ctx: int) -> int:
    """Returns the tokens to look back at; a negative `last_n` means all."""
    return n_ctx if last_n < 0 else min(last_n, n_ctx)
