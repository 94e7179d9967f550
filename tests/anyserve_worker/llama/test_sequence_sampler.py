"""Sampling from rows of logits, without a model: what a reasoning limit forces, and what that advances."""

import math
from typing import Any, cast

import numpy as np
import pytest

from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.llama.sequence_sampler import LogitRows, new_sampler
from anyserve_worker.sampling.chain import SeenPrompt
from anyserve_worker.sampling.draw import Logits, Scratch
from anyserve_worker.scheduling.sequence import Sampler, Sequence, token_array
from anyserve_worker.text.output import TextOutput
from anyserve_worker.text.reasoning_limit import ReasoningLimit

N_VOCAB = 8
END, MARK = 7, [5, 6]
PIECES = (b"a", b"b", b"c", b"d", b"e", b"</", b"t>", b"")


class Rows:
    """Every row prefers token 1, then 0, then the others. Samplers change a row in place."""

    def __init__(self) -> None:
        self._rows: dict[int, Logits] = {}

    def __getitem__(self, row: int) -> Logits:
        return self._rows.setdefault(row, np.array([2, 3, 1, 0, 0, 0, 0, 0], dtype=np.float32))


class Guide:
    """Accepts any token, but the end mark only from the `accepts_from`-th token on."""

    def __init__(self, accepts_from: int) -> None:
        self.ended = False
        self.accepted: list[int] = []
        self.n_masks = 0
        self._accepts_from = accepts_from

    def copy(self) -> "Guide":
        raise AssertionError

    def mask(self, logits: Logits) -> None:
        self.n_masks += 1

    def accepts(self, tokens: Any) -> bool:
        return list(tokens) == MARK and len(self.accepted) >= self._accepts_from

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def sequence_with(limit: int, guide: Guide | None = None, **sampling: Any) -> Sequence:
    return Sequence(
        index=0,
        tokens=token_array([2]),
        n_prompt=1,
        limit=100,
        sampling=SamplingParameters(**{"temperature": 0.0, **sampling}),
        output=TextOutput(),
        guide=guide,
        reasoning_limit=ReasoningLimit(limit, MARK, ["</t>"]),
    )


def sampler_of(sequence: Sequence) -> Sampler:
    return new_sampler(
        sequence,
        3,
        SeenPrompt(sequence.sampling, sequence.tokens, 100, lambda _: cast(Any, None)),
        rows=cast(LogitRows, Rows()),
        end_tokens=np.array([END]),
        written=PIECES.__getitem__,
        scratch=Scratch(N_VOCAB),
    )


def sampled(sequence: Sequence, n: int) -> list[int]:
    sampler = sampler_of(sequence)
    return [sampler.sample(row) for row in range(n)]


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.01},
        {"temperature": 0.01, "top_k": 2},
        {"temperature": 0.01, "mirostat": 2},
        {"temperature": 0.01, "top_n_sigma": 1.0},
        {"min_tokens": 50, "ignore_eos": True},
    ],
)
def test_every_sampler_yields_to_the_end_mark(sampling: dict[str, Any]) -> None:
    assert sampled(sequence_with(2, **sampling), 6) == [1, 1, *MARK, 1, 1]


def test_the_end_mark_counts_for_penalties() -> None:
    bias = ((5, 4.0), (6, 4.0))  # without penalties, one of them is the likeliest token
    assert sampled(sequence_with(0, logit_bias=bias), 3) == [*MARK, 5]
    penalties: dict[str, Any] = {"presence_penalty": 1.0, "frequency_penalty": 1.0}
    assert sampled(sequence_with(0, logit_bias=bias, **penalties), 3) == [*MARK, 1]


def test_tokens_of_the_end_mark_count_for_min_tokens() -> None:
    sequence = sequence_with(0, min_tokens=3, logit_bias=((END, 9.0),))
    assert sampled(sequence, 4) == [*MARK, 1, END]


def test_the_end_mark_has_log_probabilities_of_the_model() -> None:
    sequence = sequence_with(0, logprobs=1)
    assert sampled(sequence, 2) == MARK
    total = math.log(sum(math.exp(x) for x in (2, 3, 1, 0, 0, 0, 0, 0)))
    assert [(score.token, score.top[0][0]) for score in sequence.scored] == [(5, 1), (6, 1)]
    assert [score.logprob for score in sequence.scored] == pytest.approx([-total, -total])


def test_a_guide_accepts_the_end_mark_as_soon_as_it_can() -> None:
    guide = Guide(accepts_from=3)
    assert sampled(sequence_with(1, guide), 7) == [1, 1, 1, *MARK, 1, 1]
    assert guide.accepted == [1, 1, 1, *MARK, 1, 1]
    assert guide.n_masks == 5  # none for a forced token
