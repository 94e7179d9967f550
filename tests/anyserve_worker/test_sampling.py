"""The samplers that need no native chain: what they choose, how often, and for which parameters they are chosen."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from anyserve_worker.request import SamplingParams
from anyserve_worker.sampling import BLOCK, Greedy, Plain, Scratch, direct_sampler

SCRATCH = Scratch(5)
LOGITS = np.array([1.0, 3.0, -2.0, 3.0, 0.0], dtype=np.float32)


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert Greedy().sample(LOGITS) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_plain_draws_with_the_probabilities_of_the_softmax(temperature: float) -> None:
    n = 20_000
    sampler = Plain(temperature, seed=3, scratch=SCRATCH)
    drawn = Counter(sampler.sample(LOGITS) for _ in range(n))
    weights = np.exp(LOGITS.astype(float) / temperature)
    for token, p in enumerate(weights / weights.sum()):
        # Six standard deviations: never by chance, and the seed is fixed besides.
        assert abs(drawn[token] - n * p) <= 6 * (n * p * (1 - p)) ** 0.5


def test_plain_repeats_itself_with_the_same_seed_only() -> None:
    def draws(seed: int) -> list[int]:
        sampler = Plain(1.0, seed, SCRATCH)
        return [sampler.sample(LOGITS) for _ in range(50)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e30])
def test_plain_stays_within_the_vocabulary_for_extreme_logits(scale: float) -> None:
    sampler = Plain(1e-3, 1, SCRATCH)
    assert all(0 <= sampler.sample(LOGITS * np.float32(scale)) < len(LOGITS) for _ in range(100))


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf], dtype=np.float32)
    sampler = Plain(1.0, 1, SCRATCH)
    assert {sampler.sample(logits) for _ in range(500)} == {1, 3}


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"temperature": 0.0}, Greedy),
        ({"temperature": 0.0, "top_k": 5, "top_p": 0.1}, Greedy),
        ({}, Plain),
        ({"temperature": 0.7}, Plain),
        ({"top_p": 0.9}, type(None)),
        ({"top_k": 40}, type(None)),
        ({"min_p": 0.1}, type(None)),
        ({"temperature": 0.0, "repetition_penalty": 1.1}, type(None)),
        ({"presence_penalty": 0.5}, type(None)),
        ({"frequency_penalty": -0.5}, type(None)),
    ],
)
def test_who_needs_the_chain(params: dict[str, Any], kind: type) -> None:
    assert type(direct_sampler(SamplingParams(**params), 1, SCRATCH)) is kind


@pytest.mark.parametrize("n_vocab", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_every_token_of_a_vocabulary_of_any_size_is_drawn(n_vocab: int) -> None:
    sampler = Plain(1.0, 1, Scratch(n_vocab))
    drawn = {sampler.sample(np.zeros(n_vocab, dtype=np.float32)) for _ in range(20 * n_vocab)}
    assert drawn == set(range(n_vocab))


def test_a_distribution_leaves_nothing_behind_for_the_next() -> None:
    scratch = Scratch(3)
    Plain(1.0, 1, scratch).sample(np.array([9, 9, 9], dtype=np.float32))
    peaked = np.array([0, 60, 0], dtype=np.float32)
    assert {Plain(1.0, seed, scratch).sample(peaked) for seed in range(50)} == {1}
