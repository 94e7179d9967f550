"""Runs llama_decode in a bare loop, to measure the machine's limit. Reads its orders as JSON from stdin.

    python -m benchmarks.raw_loop < orders.json > figures.json

There is no server, scheduler or text: each sequence's likeliest token is its next input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# As in the worker: libgomp's threads must not spin for seconds when a core is taken away. Read when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import llama_cpp as llama

N_BATCH = 512
SPREAD = 7919  # a prime, for arbitrary tokens from the whole vocabulary


@dataclass(frozen=True)
class Layout:
    """Layout of the KV cells, and the attention that reads them."""

    unified: bool
    flash: bool

    @property
    def name(self) -> str:
        return f"{'one pool' if self.unified else 'split'}, flash attention {'on' if self.flash else 'off'}"


LAYOUTS = tuple(Layout(unified, flash) for unified in (True, False) for flash in (True, False))


class NoRoom(Exception):
    """A sequence exceeds its part of the context."""


class Model:
    def __init__(self, path: str) -> None:
        # Kept, because the library calls it for as long as it is loaded.
        self._silent = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self._silent, None)
        llama.llama_backend_init()
        self.handle = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self.handle:
            sys.exit(f"{path} can't be loaded")
        self._vocab = llama.llama_model_get_vocab(self.handle)
        self.n_vocab = llama.llama_vocab_n_tokens(self._vocab)

    def tokens(self, text: str) -> list[int]:
        data = text.encode()
        room = (llama.llama_token * (len(data) + 2))()
        n = llama.llama_tokenize(self._vocab, data, len(data), room, len(room), True, True)
        return list(room[:n])

    def arbitrary(self, n: int) -> list[int]:
        return [(1000 + i * SPREAD) % self.n_vocab for i in range(n)]


class Loop:
    """A context, and a batch that is refilled for every step."""

    def __init__(self, model: Model, layout: Layout, *, threads: int, n_ctx: int, sequences: int) -> None:
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, N_BATCH, N_BATCH
        params.n_seq_max = params.n_outputs_max = sequences
        params.n_threads = params.n_threads_batch = threads
        flash, no_flash = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = flash if layout.flash else no_flash
        params.kv_unified, params.no_perf = layout.unified, True
        self._ctx = llama.llama_init_from_model(model.handle, params)
        if not self._ctx:
            sys.exit(f"no context of {n_ctx} tokens, {layout.name}")
        self._memory = llama.llama_get_memory(self._ctx)
        self._batch = llama.llama_batch_init(N_BATCH, 0, 1)
        for row in range(N_BATCH):
            self._batch.n_seq_id[row] = 1
        self._greedy = llama.llama_sampler_init_greedy()

    def free(self) -> None:
        llama.llama_sampler_free(self._greedy)
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._ctx)

    def clear(self) -> None:
        llama.llama_memory_clear(
            self._memory, False
        )  # False keeps the data: clearing it would write hundreds of megabytes

    def share(self, sequences: int) -> None:
        """Lets all sequences continue from the first one's prompt."""
        for other in range(1, sequences):
            llama.llama_memory_seq_cp(self._memory, 0, other, -1, -1)

    def cut(self, sequence: int, length: int) -> None:
        llama.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def run(self, rows: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """Computes (token, position, sequence, sampled) rows. Returns the likeliest next token of each sampled row."""
        batch = self._batch
        for row, (token, position, sequence, sampled) in enumerate(rows):
            batch.token[row], batch.pos[row] = token, position
            batch.seq_id[row][0], batch.logits[row] = sequence, sampled
        batch.n_tokens = len(rows)
        if llama.llama_decode(self._ctx, batch) != 0:
            raise NoRoom
        return [
            llama.llama_sampler_sample(self._greedy, self._ctx, row)
            for row, (*_, sampled) in enumerate(rows)
            if sampled
        ]

    def read(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Prefills a prompt into each sequence, from its start. Returns the first new token of each."""
        rows = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        return [token for begin in range(0, len(rows), N_BATCH) for token in self.run(rows[begin : begin + N_BATCH])]


def decode_rate(loop: Loop, batch: int, context: int, steps: int, seconds: float) -> float:
    """Tokens per second of `batch` prefilled sequences that decode `steps` tokens, repeated for `seconds`."""
    spent, computed = 0.0, 0
    while spent < seconds:
        for sequence in range(batch):
            loop.cut(sequence, context)
        tokens = [1000] * batch
        began = time.perf_counter()
        for position in range(context, context + steps):
            tokens = loop.run([(token, position, sequence, True) for sequence, token in enumerate(tokens)])
            computed += batch
            if spent + time.perf_counter() - began > seconds:
                break
        spent += time.perf_counter() - began
    return computed / spent


def prompt_rate(loop: Loop, model: Model, chunk: int, context: int, seconds: float) -> float:
    """Tokens per second of prefilling a chunk behind `context` prefilled tokens."""
    rows = [(token, context + i, 0, i == chunk - 1) for i, token in enumerate(model.arbitrary(chunk))]
    computed, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        loop.cut(0, context)
        loop.run(rows)
        computed += chunk
    return computed / (time.perf_counter() - began)


def lockstep(loop: Loop, prompts: Sequence[Sequence[int]], concurrency: int, new_tokens: int) -> dict[str, float]:
    """Works as for closed-loop clients: prefills `concurrency` prompts, decodes them together, then the next ones."""
    began, tokens, firsts = time.perf_counter(), 0, []
    for first in range(0, len(prompts), concurrency):
        wave = prompts[first : first + concurrency]
        started = time.perf_counter()
        loop.clear()
        last = loop.read(wave)
        firsts.append(time.perf_counter() - started)
        for step in range(new_tokens - 1):
            last = loop.run([(last[i], len(prompt) + step, i, True) for i, prompt in enumerate(wave)])
        tokens += len(wave) * new_tokens
    seconds = time.perf_counter() - began
    return {"tokens_per_s": tokens / seconds, "ttft_p50_ms": 1e3 * sum(firsts) / len(firsts), "tokens": tokens}


def figures(orders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the figures of each measurement that `orders` contains."""
    model = Model(orders["model"])
    size = {"threads": orders["threads"], "n_ctx": orders["n_ctx"], "sequences": orders["slots"]}
    for layout in LAYOUTS:
        if orders.get("layouts") and layout.name not in orders["layouts"]:
            continue
        loop = Loop(model, layout, **size)
        prompt_rate(loop, model, 32, 0, 0.1)  # warms up
        for rates in _rates(loop, model, orders):
            yield {"layout": layout.name, **rates}
        # Split cells give each sequence only its part of the context, so a long one needs the pool.
        if layout.unified:
            for rates in _rates_after_long_prompt(loop, model, orders):
                yield {"layout": layout.name, **rates}
        for work in orders.get("work", ()):
            prompts = [model.tokens(prompt) for prompt in work["prompts"]]
            lockstep(loop, prompts[: work["concurrency"]], work["concurrency"], 4)  # warms up, as for the servers
            done = lockstep(loop, prompts, work["concurrency"], work["new_tokens"])
            yield {"layout": layout.name, "concurrency": work["concurrency"], **done}
        loop.free()


def _rates(loop: Loop, model: Model, orders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for batch in orders.get("batches", ()):
        loop.clear()
        loop.read([model.arbitrary(orders["context"])] * batch)
        rate = decode_rate(loop, batch, orders["context"], orders["steps"], orders["seconds"])
        yield {"batch": batch, "context": orders["context"], "tokens_per_s": rate}
    loop.clear()
    for chunk in orders.get("chunks", ()):
        try:
            yield {"chunk": chunk, "context": 0, "tokens_per_s": prompt_rate(loop, model, chunk, 0, orders["seconds"])}
        except NoRoom:
            return


def _rates_after_long_prompt(loop: Loop, model: Model, orders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rates behind a long prompt, which is prefilled once and shared by the sequences."""
    context = orders.get("long_context", 0)
    if not context:
        return
    loop.clear()
    loop.read([model.arbitrary(context)])
    for chunk in orders["long_chunks"]:
        rate = prompt_rate(loop, model, chunk, context, orders["seconds"])
        yield {"chunk": chunk, "context": context, "tokens_per_s": rate}
    loop.cut(0, context)
    for batch in orders["long_batches"]:
        loop.share(batch)
        rate = decode_rate(loop, batch, context, orders["steps"], orders["seconds"])
        yield {"batch": batch, "context": context, "tokens_per_s": rate}
        for sequence in range(batch):
            loop.cut(sequence, context)


if __name__ == "__main__":
    print(json.dumps(list(figures(json.load(sys.stdin)))))
