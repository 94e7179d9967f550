"""Runs our samplers and llama.cpp's chain in turn in a bare loop. Reads its orders as JSON from stdin.

    python -m benchmarks.sampler_loop < orders.json > figures.json

First on random logits of a large vocabulary, then in the steps of a real model with several choices of a long prompt.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anyserve_worker.core.options import ModelOptions
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.llama.model import Model
from anyserve_worker.llama.model_runner import ModelRunner
from anyserve_worker.llama.native import llama
from anyserve_worker.sampling.breakers import Breakers, Words
from anyserve_worker.sampling.chain import SeenPrompt, chain
from anyserve_worker.sampling.draw import Scratch
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.sequence import Sequence
from anyserve_worker.text.output import TextOutput
from benchmarks.prompts import prose
from benchmarks.sampler_chain import Chain
from benchmarks.stats import median

GREEDY = "greedy"
SAMPLERS: dict[str, SamplingParameters] = {
    GREEDY: SamplingParameters(temperature=0.0),
    "temperature": SamplingParameters(temperature=0.8),
    "repetition_penalty, greedy": SamplingParameters(temperature=0.0, repetition_penalty=1.1),
    "repetition_penalty": SamplingParameters(repetition_penalty=1.1),
    "presence_penalty, frequency_penalty": SamplingParameters(presence_penalty=0.5, frequency_penalty=0.5),
    "dry_multiplier, greedy": SamplingParameters(temperature=0.0, dry_multiplier=0.8),
    "dry_multiplier": SamplingParameters(dry_multiplier=0.8),
    "typical_p": SamplingParameters(typical_p=0.9),
    "top_k": SamplingParameters(top_k=40),
    "top_p": SamplingParameters(top_p=0.9),
    "min_p": SamplingParameters(min_p=0.05),
    "top_n_sigma": SamplingParameters(top_n_sigma=1.5),
    "xtc_probability": SamplingParameters(xtc_probability=0.5),
    "mirostat 1": SamplingParameters(mirostat=1),
    "mirostat 2": SamplingParameters(mirostat=2),
    "top_k, top_p, min_p, repetition_penalty": SamplingParameters(
        temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, repetition_penalty=1.1
    ),
}
N_CTX = 4096
N_ROWS = 8
"""Rows of logits that a sampler gets in turn."""


# ---- Random logits


def on_logits(n_vocab: int, n_prompt: int, n_tokens: int) -> Iterator[dict[str, Any]]:
    """Yields microseconds per token. The chain's time excludes the copy of the vocabulary that it works on."""
    random = np.random.default_rng(n_vocab)
    rows = [_logits(random, n_vocab) for _ in range(N_ROWS)]
    prompt = array("i", (random.zipf(1.2, n_prompt) % n_vocab).astype(np.int32).tolist())
    words = Words([b"%d" % token for token in range(n_vocab)])
    scratch, row = Scratch(n_vocab), np.zeros(n_vocab, dtype=np.float32)
    for name, sampling in SAMPLERS.items():
        began = time.perf_counter()
        seen = SeenPrompt(sampling, prompt, N_CTX, lambda texts: Breakers(words, texts, lambda _: []))
        chains = [chain(sampling, seed, seen, scratch) for seed in range(N_ROWS)]
        figures = {"sampler": name, "n_vocab": n_vocab, "prepare_ms": 1e3 * (time.perf_counter() - began)}
        # Without breakers, which llama.cpp looks for in a real vocabulary.
        reference = Chain(_without_breakers(sampling), 1, prompt, None, n_vocab, N_CTX)
        spent = chain_spent = 0.0
        for number in range(n_tokens):
            np.copyto(row, rows[number % N_ROWS])
            began = time.thread_time()
            chains[number % N_ROWS].sample(row)
            spent += time.thread_time() - began
            reference.fill(rows[number % N_ROWS])
            began = time.thread_time()
            token, _ = reference.pick()
            llama.llama_sampler_accept(reference.handle, token)
            chain_spent += time.thread_time() - began
        reference.free()
        yield figures | {"us": 1e6 * spent / n_tokens, "chain_us": 1e6 * chain_spent / n_tokens}


def _logits(random: np.random.Generator, n_vocab: int) -> npt.NDArray[np.float32]:
    """Random logits, with an entropy of about three nats."""
    logits = -1.4 * np.log(np.arange(1, n_vocab + 1)) + random.standard_normal(n_vocab)
    random.shuffle(logits)
    return logits.astype(np.float32)


def _without_breakers(sampling: SamplingParameters) -> SamplingParameters:
    return SamplingParameters(
        **{name: getattr(sampling, name) for name in sampling.__slots__} | {"dry_sequence_breakers": ()}
    )


# ---- A real model


class ChainSampler:
    """Implements sequence.Sampler with llama.cpp's chain."""

    def __init__(self, runner: ModelRunner, sequence: Sequence, seed: int) -> None:
        vocabulary = runner.model.vocabulary
        self._ctx = runner._ctx
        self._chain = Chain(
            sequence.sampling, seed, sequence.tokens, vocabulary.handle, vocabulary.n_vocab, runner.n_ctx
        )

    def sample(self, row: int) -> int:
        return int(llama.llama_sampler_sample(self._chain.handle, self._ctx, row))

    def free(self) -> None:
        self._chain.free()


@dataclass(frozen=True)
class Timing:
    """Wall times in milliseconds."""

    prepare_ms: float
    """Time to prepare the samplers of all choices."""
    run_ms: list[float]
    """Time to compute each step."""
    sample_ms: list[float]
    """Time to sample in each step."""


class Steps:
    """Steps with several choices of one prompt, which is prefilled once."""

    def __init__(self, model_path: str, n_choices: int, n_prompt: int, threads: int) -> None:
        self._model = Model(Path(model_path), ModelOptions(), lambda _: True)
        options = ModelOptions(n_ctx=N_CTX, parallel=n_choices, prompt_lookup=0)
        self._runner = ModelRunner(self._model, options, threads)
        self._n_choices, self._threads = n_choices, threads
        tokens = self._model.vocabulary.tokens_of(
            prose("samplers", 2 * n_prompt), add_special=False, parse_special=False
        )
        self._prompt = tokens[:n_prompt]
        reader = self._sequence(0, SamplingParameters())
        for start in range(0, n_prompt - 1, options.n_batch):
            self._runner.run([Chunk(reader, start, min(options.n_batch, n_prompt - 1 - start))], threads)
        for seq_id in range(1, n_choices):
            self._runner.copy(0, seq_id, n_prompt - 1)

    def _sequence(self, seq_id: int, sampling: SamplingParameters) -> Sequence:
        n_prompt = len(self._prompt)
        return Sequence(
            index=seq_id,
            tokens=self._prompt[:],
            n_prompt=n_prompt,
            limit=N_CTX,
            sampling=sampling,
            output=TextOutput(()),
            seq_id=seq_id,
        )

    def measure(self, sampling: SamplingParameters, n_steps: int, prepare: Callable[[list[Sequence]], None]) -> Timing:
        sequences = [self._sequence(seq_id, sampling) for seq_id in range(self._n_choices)]
        for sequence in sequences:
            self._runner.truncate(sequence.seq_id, len(self._prompt) - 1)
        began = time.perf_counter()
        prepare(sequences)
        timing = Timing(1e3 * (time.perf_counter() - began), [], [])
        for _ in range(n_steps):
            chunks = [Chunk(sequence, len(sequence.tokens) - 1, 1) for sequence in sequences]
            began = time.perf_counter()
            self._runner.run(chunks, self._threads)
            computed = time.perf_counter()
            sampled = self._runner.sample(chunks)
            timing.run_ms.append(1e3 * (computed - began))
            timing.sample_ms.append(1e3 * (time.perf_counter() - computed))
            for sequence, tokens in zip(sequences, sampled, strict=True):
                sequence.tokens.extend(tokens)
        return timing

    def with_our_samplers(self, sampling: SamplingParameters, n_steps: int) -> Timing:
        return self.measure(sampling, n_steps, self._runner.prepare)

    def with_chain(self, sampling: SamplingParameters, n_steps: int) -> Timing:
        samplers: list[ChainSampler] = []

        def prepare(sequences: list[Sequence]) -> None:
            for sequence in sequences:
                samplers.append(ChainSampler(self._runner, sequence, sequence.index))
                sequence.sampler = samplers[-1]

        timing = self.measure(sampling, n_steps, prepare)
        for sampler in samplers:
            sampler.free()
        return timing


def on_model(orders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    n_steps, n_choices = orders["steps"], orders["choices"]
    steps = Steps(orders["model"], n_choices, orders["prompt"], orders["threads"])
    steps.with_our_samplers(SAMPLERS[GREEDY], n_steps)  # warm
    for name, sampling in SAMPLERS.items():
        # Greedy is measured again beside each sampler, since a neighbour slows all three down.
        greedy = steps.with_our_samplers(SAMPLERS[GREEDY], n_steps)
        timings = {"ours": steps.with_our_samplers(sampling, n_steps), "chain": steps.with_chain(sampling, n_steps)}
        run_ms = median([ms for timing in (greedy, *timings.values()) for ms in timing.run_ms])
        for samplers, timing in timings.items():
            sample_ms = median(timing.sample_ms)
            yield {
                "sampler": name,
                "samplers": samplers,
                "prepare_ms": timing.prepare_ms,
                "run_ms": run_ms,
                "sample_ms": sample_ms,
                "tokens_per_s": 1e3 * n_choices / (run_ms + sample_ms),
                "of_greedy": (run_ms + sample_ms) / (run_ms + median(greedy.sample_ms)),
            }


def figures(orders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for n_vocab in orders["vocabularies"]:
        yield from on_logits(n_vocab, orders["prompt"], orders["tokens"])
    yield from on_model(orders)


if __name__ == "__main__":
    print(json.dumps(list(figures(json.load(sys.stdin)))))
