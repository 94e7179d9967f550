"""Greedy and plain sampling: the tokens that they draw, their frequencies, and log probabilities."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from anyserve_worker.sampling.draw import BLOCK, Distribution, Greedy, Logits, Plain, Scratch

SCRATCH = Scratch(5)
LOGITS = np.array([1.0, 3.0, -2.0, 3.0, 0.0], dtype=np.float32)


def test_greedy_takes_the_first_of_equally_likely_tokens() -> None:
    assert Greedy().sample(LOGITS) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_plain_draws_with_the_probabilities_of_the_softmax(temperature: float) -> None:
    n = 20_000
    sampler = Plain(temperature, seed=3, scratch=SCRATCH)
    drawn = Counter(sampler.sample(LOGITS) for _ in range(n))
    weights = np.exp(LOGITS.astype(float) / temperature)
    for token, p in enumerate(weights / weights.sum()):
        # six standard deviations; the seed is fixed too
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


@pytest.mark.parametrize("n_vocab", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_every_token_of_a_vocabulary_of_any_size_is_drawn(n_vocab: int) -> None:
    sampler = Plain(1.0, 1, Scratch(n_vocab))
    drawn = {sampler.sample(np.zeros(n_vocab, dtype=np.float32)) for _ in range(20 * n_vocab)}
    assert drawn == set(range(n_vocab))


def test_a_draw_does_not_affect_the_next_one() -> None:
    scratch = Scratch(3)
    Plain(1.0, 1, scratch).sample(np.array([9, 9, 9], dtype=np.float32))
    peaked = np.array([0, 60, 0], dtype=np.float32)
    assert {Plain(1.0, seed, scratch).sample(peaked) for seed in range(50)} == {1}


# ---- Log probabilities


def reference(logits: Logits) -> npt.NDArray[np.float64]:
    """Returns the log probabilities of the softmax in double precision."""
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights / weights.sum()))


@pytest.mark.parametrize("n_vocab", [1, 2, 5, BLOCK + 1, 50_000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_log_probabilities_are_those_of_the_softmax(n_vocab: int, scale: float) -> None:
    logits = (np.random.default_rng(n_vocab).standard_normal(n_vocab) * scale + 7).astype(np.float32)
    expected = reference(logits)
    distribution = Distribution(logits, 5)
    for token in {0, n_vocab - 1, int(logits.argmax())}:
        score = distribution.score(token)
        assert score.token == token
        assert score.logprob == pytest.approx(expected[token], abs=1e-4)
        assert [t for t, _ in score.top] == sorted(range(n_vocab), key=lambda t: (-logits[t], t))[:5]
        assert [p for _, p in score.top] == pytest.approx([expected[t] for t, _ in score.top], abs=1e-4)


@pytest.mark.parametrize("n_top", [0, 1, 2, 3, 4, 5, 6, 20])
def test_equally_likely_tokens_are_listed_in_order(n_top: int) -> None:
    top = Distribution(LOGITS, n_top).score(2).top
    assert [token for token, _ in top] == [1, 3, 0, 4, 2][:n_top]


def test_equal_logits_have_equal_log_probabilities() -> None:
    score = Distribution(np.full(1000, 3, dtype=np.float32), 3).score(999)
    assert score.logprob == pytest.approx(-np.log(1000))
    assert [token for token, _ in score.top] == [0, 1, 2]


def test_impossible_tokens_are_not_listed() -> None:
    score = Distribution(np.array([-np.inf, 1.0, -np.inf, 1.0], dtype=np.float32), 3).score(0)
    assert score.logprob == -np.inf
    assert [token for token, _ in score.top] == [1, 3, 0]
    assert [logprob for _, logprob in score.top] == pytest.approx([-np.log(2), -np.log(2), -np.inf])


@pytest.mark.parametrize("greatest", [-1e4, 1e4, 3e38])
def test_extreme_logits_do_not_overflow(greatest: float) -> None:
    logits = np.array([greatest, 0.0, greatest, -1e30], dtype=np.float32)
    score = Distribution(logits, 1).score(0)
    assert score.logprob <= 0 or score.logprob == pytest.approx(0, abs=1e-3)
    assert np.isfinite(score.logprob)
