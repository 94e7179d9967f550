"""Penalties compared with llama.cpp's over random sequences: the logits are the same at every token."""

import random
from array import array
from typing import Any

import llama_cpp as llama
import numpy as np
import pytest

from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.sampling.breakers import Breakers, Words
from anyserve_worker.sampling.chain import SeenPrompt, chain, looks_back
from anyserve_worker.sampling.draw import DirectSampler, Greedy, Logits, Scratch
from anyserve_worker.sampling.penalties import Penalizing
from benchmarks.sampler_chain import Chain

pytestmark = pytest.mark.slow

N_VOCAB = 300
N_CTX = 200
WORDS = Words([b"%d" % token for token in range(N_VOCAB)])


def no_breakers(texts: tuple[str, ...]) -> Breakers:
    return Breakers(WORDS, texts, lambda _: [])


def penalized(sampler: DirectSampler, logits: Logits) -> Logits:
    changed = logits.copy()
    if isinstance(sampler, Penalizing):
        for penalty in sampler._penalties:
            penalty.apply(changed)
    return changed


def accept(sampler: DirectSampler, token: int) -> None:
    if isinstance(sampler, Penalizing):
        for penalty in sampler._penalties:
            penalty.accept(token)


def penalized_by_llama_cpp(theirs: Chain, logits: Logits) -> Logits:
    _, candidates = theirs.apply(logits)
    changed = np.full_like(logits, -np.inf)
    changed[candidates["id"]] = candidates["logit"]
    return changed


def sequence(rng: random.Random, n: int) -> list[int]:
    """Returns random tokens, or a random period with a few errors."""
    tokens = rng.sample(range(N_VOCAB), rng.choice([1, 2, 3, 5, 20]))
    if rng.random() < 0.4:
        return [rng.choice(tokens) for _ in range(n)]
    period = [rng.choice(tokens) for _ in range(rng.randint(1, 9))]
    repeated = (period * n)[:n]
    for _ in range(rng.randint(0, 3)):
        repeated[rng.randrange(n)] = rng.choice(tokens)
    return repeated


def compare(sampling: SamplingParameters, prompt: list[int], output: list[int]) -> int:
    """Compares the logits at every token of two choices of one prompt; returns how many logits were changed."""
    tokens = array("i", prompt)
    seen_prompt = SeenPrompt(sampling, tokens, N_CTX, no_breakers)
    n_changed = 0
    for generated in (output, output[::-1]):
        samplers = chain(sampling, 1, seen_prompt, Scratch(N_VOCAB))
        reference = Chain(sampling, 1, tokens, None, N_VOCAB, N_CTX)
        rng = np.random.default_rng(len(prompt))
        for token in generated:
            logits = (rng.standard_normal(N_VOCAB) * 3).astype(np.float32)
            expected = penalized_by_llama_cpp(reference, logits)
            n_changed += int(np.count_nonzero(expected != logits))
            # llama.cpp returns NaN for such large penalties
            assert np.allclose(np.maximum(penalized(samplers, logits), -1e29), np.maximum(expected, -1e29), 1e-5, 1e-5)
            accept(samplers, token)
            llama.llama_sampler_accept(reference.handle, token)
        reference.free()
    return n_changed


@pytest.mark.parametrize("last_n", [-1, 1, 2, 7, 40, 10**9])
@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.5},
        {"presence_penalty": 0.7},
        {"frequency_penalty": -0.4},
        {"repetition_penalty": 2.0, "presence_penalty": -1.0, "frequency_penalty": 0.3},
    ],
    ids=lambda params: "-".join(params),
)
def test_penalties_of_repeated_tokens_are_those_of_llama_cpp(params: dict[str, Any], last_n: int) -> None:
    rng = random.Random(last_n)
    sampling = SamplingParameters(temperature=0.0, repeat_last_n=last_n, **params)
    n_changed = sum(compare(sampling, sequence(rng, rng.choice([1, 2, 30, 150])), sequence(rng, 60)) for _ in range(6))
    assert n_changed > 100


@pytest.mark.parametrize("last_n", [-1, 1, 2, 7, 40, 10**9])
@pytest.mark.parametrize("allowed_length", [0, 1, 2, 5])
@pytest.mark.parametrize("base", [1.0, 1.1, 1.75, 3.0])
def test_dry_penalties_are_those_of_llama_cpp(base: float, allowed_length: int, last_n: int) -> None:
    rng = random.Random(last_n * 100 + allowed_length)
    sampling = SamplingParameters(
        temperature=0.0,
        dry_multiplier=0.8,
        dry_base=base,
        dry_allowed_length=allowed_length,
        dry_penalty_last_n=last_n,
        dry_sequence_breakers=(),
    )
    n_changed = sum(
        compare(sampling, sequence(rng, rng.choice([1, 2, 3, 50, 150])), sequence(rng, 60)) for _ in range(10)
    )
    assert n_changed > 100 or 0 < last_n <= allowed_length + 1


def test_combined_penalties_are_applied_in_the_order_of_llama_cpp() -> None:
    rng = random.Random(5)
    sampling = SamplingParameters(
        temperature=0.0,
        repetition_penalty=1.5,
        repeat_last_n=20,
        presence_penalty=0.5,
        frequency_penalty=0.2,
        dry_multiplier=0.5,
        dry_sequence_breakers=(),
    )
    assert all(compare(sampling, sequence(rng, 100), sequence(rng, 80)) for _ in range(10))


@pytest.mark.parametrize("period", [[5], [5, 6], [5] * 40 + [6], list(range(100, 140))])
def test_dry_penalties_of_a_long_repetitive_prompt_are_those_of_llama_cpp(period: list[int]) -> None:
    """Thousands of positions match, each over thousands of tokens."""
    prompt = (period * 4000)[: N_CTX * 20]
    base = float(np.float32(1.001))
    sampling = SamplingParameters(temperature=0.0, dry_multiplier=0.1, dry_base=base, dry_sequence_breakers=())
    seen_prompt = SeenPrompt(sampling, array("i", prompt), len(prompt) * 2, no_breakers)
    samplers = chain(sampling, 1, seen_prompt, Scratch(N_VOCAB))
    reference = Chain(sampling, 1, array("i", prompt), None, N_VOCAB, len(prompt) * 2)
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    for token in [*prompt[:50], 7, *prompt[:50]]:
        assert np.allclose(penalized(samplers, logits), penalized_by_llama_cpp(reference, logits), 1e-4, 1e-4)
        accept(samplers, token)
        llama.llama_sampler_accept(reference.handle, token)
    reference.free()


def test_greedy_takes_the_likeliest_token_after_penalties() -> None:
    sampling = SamplingParameters(temperature=0.0, repetition_penalty=10.0)
    sampler = chain(sampling, 1, SeenPrompt(sampling, array("i", [2]), N_CTX, no_breakers), Scratch(4))
    logits = np.array([1.0, 2.0, 3.0, -1.0], dtype=np.float32)
    assert [sampler.sample(logits.copy()) for _ in range(4)] == [1, 0, 2, 2]


@pytest.mark.parametrize(
    ("params", "penalizes"),
    [
        ({"repetition_penalty": 1.1}, True),
        ({"repetition_penalty": 1.1, "repeat_last_n": 0}, False),
        ({"presence_penalty": 0.1}, True),
        ({"frequency_penalty": 0.1, "repeat_last_n": 0}, False),
        ({"dry_multiplier": 1.0}, True),
        ({"dry_multiplier": 1.0, "dry_penalty_last_n": 0}, False),
        ({"repeat_last_n": 5, "dry_base": 2.0}, False),
    ],
)
def test_penalties_without_effect_are_not_applied(params: dict[str, Any], penalizes: bool) -> None:
    sampling = SamplingParameters(temperature=0.0, **params)
    sampler = chain(sampling, 1, SeenPrompt(sampling, array("i", [2]), N_CTX, no_breakers), Scratch(4))
    assert isinstance(sampler, Penalizing if penalizes else Greedy)
    assert not penalizes or looks_back(sampling) == ("presence_penalty" not in params)


# ---- Breakers


def breakers(words: list[bytes], *texts: str) -> Breakers:
    """Returns the breakers of a vocabulary that has `words` and then all single bytes."""
    alphabet = [*words, *(bytes([byte]) for byte in range(256))]
    return Breakers(Words(alphabet), texts, lambda text: [len(words) + byte for byte in text])


def test_a_token_that_contains_a_breaker_is_a_breaker() -> None:
    candidates = breakers([b"a\nb", b"ab", b"\n\n", b""], "\n", "ab")
    assert candidates.alone.nonzero()[0].tolist() == [0, 1, 2, 4 + ord("\n")]


def test_a_breaker_may_span_several_tokens() -> None:
    candidates = breakers([b"xab", b"xabc"], "abc")
    a, b, c = (2 + ord(letter) for letter in "abc")
    assert candidates.alone.nonzero()[0].tolist() == [1]
    assert candidates.are(0, (c,))
    assert candidates.are(a, (b, c))
    assert not candidates.are(b, (c,))
    assert not candidates.are(1, (c,)), "the token alone is a breaker"
    tokens = np.array([a, b, c, a, b, a], dtype=np.int32)
    assert candidates.last(tokens) == (0, 2)
    assert candidates.last(tokens[:2]) is None
    assert candidates.last(np.append(tokens, [0, c]).astype(np.int32)) == (6, 7)
    assert candidates.last(np.append(tokens, [1, a]).astype(np.int32)) == (6, 6)
