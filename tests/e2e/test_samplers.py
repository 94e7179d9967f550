"""Samplers with a real vocabulary and in a real worker."""

import random
import re
from array import array
from collections.abc import Iterator
from typing import Any

import llama_cpp as llama
import numpy as np
import pytest

from anyserve_worker.core.options import ModelOptions
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.llama.model import Model
from anyserve_worker.sampling.chain import SeenPrompt, chain
from anyserve_worker.sampling.draw import Scratch
from anyserve_worker.sampling.penalties import Penalizing
from benchmarks.sampler_chain import Chain
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub as Service
from tests.e2e.conftest import SMOLLM2
from tests.e2e.messages import infer, outputs
from tests.models import smollm2_path

N_CTX = 512
TEXTS = "a ab abab b ba bab the these :: : colon , \n\n"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model(smollm2_path(), ModelOptions(), lambda _: True)
    yield model
    model.free()


def tokens_of(model: Model, text: str) -> "array[int]":
    return model.vocabulary.tokens_of(text, add_special=False, parse_special=False)


def test_breakers_are_searched_in_the_text_that_llama_cpp_has_for_each_token(model: Model) -> None:
    words = model.vocabulary._words
    assert [words[token] for token in range(model.vocabulary.n_vocab)] == [
        model.vocabulary.text_of(array("i", [token])) for token in range(model.vocabulary.n_vocab)
    ]


@pytest.mark.parametrize(
    "breakers",
    [
        ("\n", ":", '"', "*"),
        ("ab",),
        ("abab", "ba"),
        ("a b",),
        ("b a b",),
        ("bab", "ab ab", "a"),
        ("ababab" * 6,),
        ("e", "ö", " the"),
    ],
    ids=repr,
)
def test_breakers_end_a_sequence_where_they_do_in_llama_cpp(model: Model, breakers: tuple[str, ...]) -> None:
    dice = random.Random(repr(breakers))
    vocabulary, alphabet = model.vocabulary, tokens_of(model, TEXTS)
    n_penalized = 0
    for trial in range(12):
        sampling = SamplingParameters(
            temperature=0.0,
            dry_multiplier=1.0,
            dry_allowed_length=dice.choice([0, 1, 2]),
            dry_penalty_last_n=dice.choice([-1, -1, 3, 20]),
            dry_sequence_breakers=breakers,
        )
        tokens = dice.sample(list(alphabet), dice.choice([2, 3, 5]))
        prompt = array("i", [dice.choice(tokens) for _ in range(dice.choice([1, 5, 100]))])
        our_chain = chain(
            sampling, 1, SeenPrompt(sampling, prompt, N_CTX, vocabulary.breakers), Scratch(vocabulary.n_vocab)
        )
        llama_chain = Chain(sampling, 1, prompt, vocabulary.handle, vocabulary.n_vocab, N_CTX)
        logits = np.random.default_rng(trial).standard_normal(vocabulary.n_vocab).astype(np.float32)
        for _ in range(40):
            _, candidates = llama_chain.apply(logits)
            expected = np.zeros_like(logits)
            expected[candidates["id"]] = candidates["logit"]
            changed = logits.copy()
            assert isinstance(our_chain, Penalizing)
            our_chain._penalties[0].apply(changed)
            assert np.allclose(np.maximum(changed, -1e29), np.maximum(expected, -1e29), 1e-5, 1e-5)
            n_penalized += int(np.count_nonzero(changed != logits))
            token = dice.choice(tokens)
            our_chain._penalties[0].accept(token)
            llama.llama_sampler_accept(llama_chain.handle, token)
        llama_chain.free()
    assert n_penalized


@pytest.mark.parametrize(
    "inputs",
    [
        {"top_k": 40, "top_p": 0.9, "min_p": 0.01},
        {"top_n_sigma": 2.0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.0},
        {"repetition_penalty": 3.0, "presence_penalty": 1.0, "frequency_penalty": 1.0},
        {"dry_multiplier": 100.0, "dry_base": 100.0, "dry_allowed_length": 0},
        {"typical_p": 0.9, "temperature": 0.01, "dry_multiplier": 100.0, "dry_base": 100.0, "dry_allowed_length": 0},
        {"mirostat": 2, "repetition_penalty": 3.0, "dry_multiplier": 5.0},
    ],
    ids=lambda inputs: "-".join(inputs),
)
def test_every_choice_follows_its_guide(service: Service, inputs: dict[str, Any]) -> None:
    """Penalties that make nearly every possible token impossible still leave one."""
    inputs = {"temperature": 1.5, "logprobs": 2, "regex": "[abc]{8}", **inputs}
    request = infer(SMOLLM2, "abc cba abc", n=8, seed=3, **inputs)
    response = outputs(service.ModelInfer(request))
    assert all(re.fullmatch("[abc]{8}", text) for text in response["text"])
    assert len(response["top_logprob"]) == 2 * len(response["logprob"])
