"""Truncating samplers and mirostat compared with llama.cpp's: the tokens kept, and how often each is drawn."""

import random
from array import array
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.sampling.breakers import Breakers
from anyserve_worker.sampling.chain import SeenPrompt, chain
from anyserve_worker.sampling.draw import DirectSampler, Draw, Drawn, Logits, Scratch
from anyserve_worker.sampling.truncation import Mirostat, Truncating
from benchmarks.sampler_chain import Chain
from tests.anyserve_worker.sampling.test_selection import shapes

pytestmark = pytest.mark.slow

TRUNCATIONS: list[dict[str, Any]] = [
    *({"top_k": k} for k in (1, 5, 40, 1000, 10**6)),
    *({"top_p": p} for p in (0.0, 0.2, 0.5, 0.9, 0.99)),
    *({"typical_p": p} for p in (0.0, 0.2, 0.5, 0.9, 0.99)),
    *({"min_p": p} for p in (0.001, 0.05, 1.0)),
    *({"top_n_sigma": n} for n in (0.5, 1.0, 3.0, 20.0)),
    *({"xtc_probability": 1.0, "xtc_threshold": p} for p in (0.001, 0.01, 0.1, 0.3, 0.5, 0.6)),
    {"top_k": 50, "top_p": 0.9, "typical_p": 0.9, "min_p": 0.01, "temperature": 0.7},
    {"top_n_sigma": 2.0, "top_p": 0.8, "xtc_probability": 1.0, "xtc_threshold": 0.02, "temperature": 1.5},
    {"typical_p": 0.95, "min_p": 0.02, "xtc_probability": 1.0, "xtc_threshold": 0.05},
    *({"mirostat": 1, "mirostat_tau": tau, "temperature": 1.3} for tau in (0.0, 1.0, 3.0, 5.0)),
    *({"mirostat": 2, "mirostat_tau": tau, "temperature": 0.8} for tau in (0.0, 1.0, 3.0, 5.0)),
]


class Watched:
    """Records the logits from which a sampler draws."""

    def __init__(self, sampling: SamplingParameters, n_vocab: int) -> None:
        sampler = sampler_of(sampling, n_vocab)
        assert isinstance(sampler, Truncating | Mirostat)
        self._sampler, self._draw = sampler, sampler._draw
        sampler._draw = self._watch  # type: ignore[assignment]
        self._kept_logits: list[Logits] = []

    def _watch(self, logits: Logits) -> Drawn:
        self._kept_logits.append(logits.copy())
        return self._draw(logits)

    def kept_logits(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Returns the logits after truncation."""
        self._sampler.sample(logits)
        return self._kept_logits[-1].astype(np.float64)


def sampler_of(sampling: SamplingParameters, n_vocab: int, seed: int = 1) -> DirectSampler:
    def no_breakers(_: tuple[str, ...]) -> Breakers:
        raise AssertionError("no sampler here uses breakers")

    return chain(sampling, seed, SeenPrompt(sampling, array("i", [0]), 100, no_breakers), Scratch(n_vocab))


def probabilities(logits: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """Returns the probabilities above zero, highest first."""
    weights = np.exp((logits - logits.max()) / temperature)
    ordered: npt.NDArray[np.float64] = np.sort(weights[weights > 0])[::-1] / weights.sum()
    return ordered


@pytest.mark.parametrize("params", TRUNCATIONS, ids=lambda params: "-".join(f"{k}={v}" for k, v in params.items()))
@pytest.mark.parametrize("n_vocab", [7, 2048, 49_152, 151_936])
def test_the_kept_tokens_are_those_of_llama_cpp(n_vocab: int, params: dict[str, Any]) -> None:
    sampling = SamplingParameters(**params)
    for name, logits in shapes(n_vocab):
        if name == "huge" or (name in ("nearly flat", "flat", "equals") and sampling.mirostat == 1):
            continue  # llama.cpp overflows and keeps one token
        theirs = Chain(sampling, 1, array("i", [0]), None, n_vocab, 100)
        _, candidates = theirs.apply(logits)
        expected = probabilities(candidates["logit"].astype(np.float64), 1)
        theirs.free()
        kept = probabilities(
            Watched(sampling, n_vocab).kept_logits(logits.copy()), 1 if sampling.mirostat else sampling.temperature
        )
        # llama.cpp sums in single precision: with a large vocabulary it is off by a percent
        n = min(len(kept), len(expected))
        difference = np.abs(kept[:n] - expected[:n]).sum() + kept[n:].sum() + expected[n:].sum()
        assert difference < (2e-3 if n_vocab < 100_000 else 2e-2), (name, len(kept), len(expected))


def test_xtc_never_keeps_an_impossible_token() -> None:
    """llama.cpp does at a threshold of 0, because a probability of 0 reaches it."""
    logits = np.array([-np.inf, 2.0, 3.0, -np.inf, 1.0], dtype=np.float32)
    sampler = sampler_of(SamplingParameters(xtc_probability=1.0, xtc_threshold=0.0), len(logits))
    assert {sampler.sample(logits.copy()) for _ in range(20)} == {4}


def test_mirostat_keeps_all_tokens_when_its_token_count_overflows() -> None:
    """llama.cpp's conversion to an integer overflows there, and only the likeliest token is kept."""
    sampler = sampler_of(SamplingParameters(mirostat=1, mirostat_tau=9.0), 500)
    logits = (np.random.default_rng(1).standard_normal(500) / 1000).astype(np.float32)
    assert len({sampler.sample(logits.copy()) for _ in range(2000)}) > 400


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat_keeps_the_surprise_near_its_target(mirostat: int) -> None:
    logits = (-1.2 * np.log(np.arange(1, 5001))).astype(np.float32)
    np.random.default_rng(5).shuffle(logits)
    weights = np.exp(logits.astype(np.float64))
    surprises = -np.log2(weights / weights.sum())
    for tau in (2.0, 4.0):
        sampler = sampler_of(SamplingParameters(mirostat=mirostat, mirostat_tau=tau), 5000)
        drawn = [surprises[sampler.sample(logits.copy())] for _ in range(600)]
        theirs = Chain(SamplingParameters(mirostat=mirostat, mirostat_tau=tau), 3, array("i", [0]), None, 5000, 100)
        reference = [surprises[theirs.sample(logits)] for _ in range(600)]
        theirs.free()
        assert abs(np.mean(drawn[100:]) - np.mean(reference[100:])) < 0.5


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 3},
        {"top_p": 0.8, "temperature": 1.5},
        {"min_p": 0.1, "temperature": 0.6},
        {"typical_p": 0.7},
        {"top_n_sigma": 1.0},
        {"xtc_probability": 0.4, "xtc_threshold": 0.15},
    ],
    ids=lambda params: "-".join(params),
)
def test_tokens_are_drawn_as_often_as_by_llama_cpp(params: dict[str, Any]) -> None:
    n, logits = 20_000, np.array([1.0, 2.5, -2.0, 2.0, 0.0, 1.7], dtype=np.float32)
    sampling = SamplingParameters(**params)
    sampler = sampler_of(sampling, len(logits), seed=7)
    theirs = Chain(sampling, 7, array("i", [0]), None, len(logits), 100)
    drawn = Counter(sampler.sample(logits.copy()) for _ in range(n))
    reference = Counter(theirs.sample(logits) for _ in range(n))
    theirs.free()
    assert set(drawn) == set(reference)
    for token, count in reference.items():
        p = count / n
        # six standard deviations of the difference of two draws; the seeds are fixed too
        assert abs(drawn[token] - count) <= 6 * (2 * n * p * (1 - p)) ** 0.5


@pytest.mark.parametrize("params", [{"top_k": 20}, {"xtc_probability": 0.5}, {"mirostat": 1}, {"mirostat": 2}])
def test_draws_with_the_same_seed_are_the_same(params: dict[str, Any]) -> None:
    logits = np.random.default_rng(1).standard_normal(3000).astype(np.float32)

    def draws(seed: int) -> list[int]:
        sampler = sampler_of(SamplingParameters(**params), 3000, seed)
        return [sampler.sample(logits.copy()) for _ in range(40)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)


def test_a_low_temperature_does_not_overflow() -> None:
    logits = np.array([1.0, -1e30, 2.0, -np.inf], dtype=np.float32)
    for params in ({"top_p": 0.9}, {"typical_p": 0.9}, {"top_n_sigma": 1.0}, {"mirostat": 2, "mirostat_tau": 0.0}):
        sampler = sampler_of(SamplingParameters(temperature=1e-5, **params), 4)  # type: ignore[arg-type]
        assert {sampler.sample(logits.copy()) for _ in range(20)} == {2}


def test_a_draw_returns_the_probability_of_its_token() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.25], dtype=np.float32))
    draw = Draw(1.0, random.Random(1), Scratch(3))
    assert {(drawn.at, round(drawn.probability, 5)) for drawn in (draw(logits) for _ in range(50))} == {
        (0, 0.5),
        (1, 0.25),
        (2, 0.25),
    }
