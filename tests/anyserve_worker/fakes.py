"""Stand-ins for llama.cpp. They track their own state and reject calls that llama.cpp could not serve."""

import asyncio
import threading
from array import array
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np

from anyserve_worker.core.errors import EngineFailure, Interrupted, InvalidRequest, NoRoom
from anyserve_worker.core.guide import Guide
from anyserve_worker.core.logprob import TokenScore
from anyserve_worker.core.options import MAX_DRAFT
from anyserve_worker.core.spans import Spans
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.embedding_queue import EmbeddingPart, Vector
from anyserve_worker.scheduling.prefix import common_prefix
from anyserve_worker.scheduling.sequence import Sequence
from protos import contract


@dataclass
class FakeMemory:
    """KV memory that records the token of each cell, for each sequence in the order of positions.

    `window`: each token sees only this many tokens before it; computing it drops those further back.
    `recurrent`: a state that can be kept or copied only as a whole, not cut.
    """

    n_cells: int
    window: int | None = None
    recurrent: bool = False
    sequences: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """(cell, token) by sequence id. A copy has the same cells."""
    forgotten: dict[int, int] = field(default_factory=dict)
    """First position that is still in the memory, by sequence id."""
    _next_cell: int = 0

    # ---- kv_cache.Memory

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        assert 0 < n <= length >= len(self.sequences.get(seq_id, ()))
        if self.recurrent:
            return n if n == length else 0
        return n if self._sees_enough(seq_id, n) else 0

    def copy(self, source: int, target: int, n: int) -> None:
        assert target not in self.sequences
        assert self.usable_prefix(source, len(self.sequences[source]), n) == n
        self.sequences[target] = self.sequences[source][:n]
        self.forgotten[target] = self.forgotten[source]

    def truncate(self, seq_id: int, n: int) -> bool:
        tokens = self.sequences.get(seq_id, [])
        assert 0 <= n <= len(tokens)
        if n == len(tokens):
            return True
        if n > 0 and not self.recurrent:
            del tokens[n:]
            return True
        del self.sequences[seq_id], self.forgotten[seq_id]
        return n == 0

    # ---- Calls of the model

    def compute(self, seq_id: int, start: int, tokens: Items[int]) -> None:
        """Appends `tokens` to the `start` tokens that it has. Raises NoRoom, and changes nothing, if they don't fit."""
        cells = self.sequences.get(seq_id, [])
        assert len(cells) == start, "positions must be consecutive"
        assert seq_id not in self.sequences or self._sees_enough(seq_id, start), "attention must see its tokens"
        if self.n_used + len(tokens) > self.n_cells:
            raise NoRoom
        for token in tokens:
            cells.append((self._next_cell, token))
            self._next_cell += 1
        self.sequences[seq_id] = cells
        self.forgotten.setdefault(seq_id, 0)
        if self.window is not None:
            self.forgotten[seq_id] = max(self.forgotten[seq_id], len(cells) - self.window)

    def tokens(self, seq_id: int) -> "array[int]":
        return array("i", (token for _, token in self.sequences.get(seq_id, [])))

    @property
    def n_used(self) -> int:
        return len({cell for seq_id, tokens in self.sequences.items() for cell, _ in tokens[self.forgotten[seq_id] :]})

    def _sees_enough(self, seq_id: int, n: int) -> bool:
        return self.window is None or self.forgotten.get(seq_id, 0) <= max(0, n - self.window)


END = 0
"""The token that ends an answer. Every other token is a byte, so that a character can span several tokens."""
WAIT_TIMEOUT = 20
"""Seconds after which a test that waits for the engine's thread fails."""


class ByteVocabulary:
    def tokenize(self, prompt: str, plain: Spans = ()) -> "array[int]":
        return array("i", list(prompt.encode()))

    def continuation(self, text: str) -> "array[int]":
        return array("i", list(text.encode()))

    def infill(self, prefix: "array[int]", suffix: "array[int]") -> "array[int]":
        return array("i", [*b"<", *prefix, *b"|", *suffix, *b">"])

    def adds_bos(self, text: str, plain: Spans = ()) -> bool:
        return False

    def tokens_of(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
    ) -> "array[int]":
        """Returns one token a byte; `add_special` puts a 1 in front, `parse_special` turns each "#" into a 2."""
        data = text.encode()
        return array("i", [*([1] if add_special else []), *(data.replace(b"#", b"\2") if parse_special else data)])

    def ranked_pair(self, query: str, document: str) -> "array[int]":
        return array("i", list(f"{query}|{document}".encode()))

    def text_of(self, tokens: "array[int]") -> bytes:
        return bytes(list(tokens))

    def check_tokens(self, token_ids: Items[int], tensor: str) -> None:
        if max(token_ids, default=0) > 255:
            raise InvalidRequest("no such token", tensor=tensor)

    def check_guide(self, guide: Guide) -> None:
        """Accepts every guide."""

    def stop_compiling(self) -> None:
        """Does nothing: every compilation is instant."""

    def try_guide(self, guide: Guide, seconds: float) -> str:
        if not guide.source:
            raise InvalidRequest("no such guide", tensor=guide.tensor.name)
        return guide.source

    def compile(self, guide: Guide, translated: str) -> "FakeGuide":
        return FakeGuide(len(translated))

    def written(self, token: int) -> bytes:
        return bytes([token])

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def is_end(self, token: int) -> bool:
        return token == END


@dataclass
class FakeGuide:
    """Ends a choice after `n_left` tokens."""

    n_left: int
    ended: bool = False

    def copy(self) -> "FakeGuide":
        return FakeGuide(self.n_left)

    def mask(self, logits: object) -> None:
        """Does nothing: the fake runner samples from its script."""

    def accepts(self, tokens: Items[int]) -> bool:
        return len(tokens) <= self.n_left

    def accept(self, token: int) -> None:
        self.n_left -= 1
        self.ended = self.n_left == 0


class SlowVocabulary(ByteVocabulary):
    """Tokenizes only after `may_go_on` is set."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def tokenize(self, prompt: str, plain: Spans = ()) -> "array[int]":
        assert self.may_go_on.wait(WAIT_TIMEOUT)
        return super().tokenize(prompt, plain)


class Gate:
    """Holds a thread in `enter` until the test, which waits in `entered`, calls `let_through`."""

    def __init__(self) -> None:
        self._waiting = threading.Semaphore(0)
        self._passes = threading.Semaphore(0)
        self._open = False

    def enter(self) -> None:
        if not self._open:
            self._waiting.release()
            assert self._passes.acquire(timeout=WAIT_TIMEOUT)

    async def entered(self) -> None:
        """Waits until the thread is in `enter`."""
        assert await asyncio.to_thread(self._waiting.acquire, timeout=WAIT_TIMEOUT)

    def entered_now(self) -> bool:
        """Blocks the event loop until the thread is in `enter`; returns False if it takes too long."""
        return self._waiting.acquire(timeout=WAIT_TIMEOUT)

    def let_through(self) -> None:
        self._passes.release()

    def close(self) -> None:
        """Makes later calls of `enter` wait, as at the start."""
        self._open = False

    def open(self) -> None:
        """Releases the thread, and lets later calls of `enter` return at once."""
        self._open = True
        self._passes.release()


def score(chunk: Chunk) -> None:
    """Adds the scores of the prompt's tokens that this chunk computes and that have none yet."""
    sequence = chunk.sequence
    if not chunk.scores:
        return
    assert chunk.n_logits == chunk.n_rows
    assert chunk.start <= sequence.n_scored - 1, "no position may be skipped"
    for position in range(chunk.start + 1, min(chunk.start + chunk.count + 1, sequence.n_prompt)):
        if position == sequence.n_scored:
            sequence.scored.append(fake_score(sequence, position, sequence.tokens[position]))
            sequence.n_scored += 1


def fake_score(sequence: Sequence, position: int, token: int) -> TokenScore:
    """Returns minus the position as the token's log probability; the alternatives are "a", "b", …"""
    top = tuple((ord("a") + i, -float(i)) for i in range(sequence.sampling.logprobs or 0))
    return TokenScore(token, -float(position), top)


class FakeVectorRunner:
    """A model that embeds a token as [token, position, 1]; as a reranker, it scores a prompt by the sum of its tokens.

    `whole` as in `VectorRunner`. `failures`: exceptions that the first batches raise; None for a batch that succeeds.
    """

    def __init__(
        self,
        *,
        n_ctx: int = 100,
        n_batch: int = 16,
        n_cells: int = 100,
        n_sequences: int = 4,
        whole: bool = False,
        ranks: bool = False,
        gate: Gate | None = None,
        failures: Items[Exception | None] = (),
    ) -> None:
        self.n_ctx, self.n_batch, self.n_cells, self.n_sequences = n_ctx, n_batch, n_cells, n_sequences
        self.whole, self.ranks, self.pooling, self.n_embedding = whole, ranks, contract.POOLING_MEAN, 3
        self.gate = gate
        self.failures = list(failures)
        self.batches: list[list[int]] = []
        """Number of tokens of each part, by batch."""
        self.sequences: dict[int, list[int]] = {}
        """Tokens by sequence id, until `forget`."""
        self._returned: list[Vector] = []

    def run(self, parts: list[EmbeddingPart], threads: int) -> list[Vector]:
        if self.gate:
            self.gate.enter()
        for rows in self._returned:
            rows[:] = np.nan  # rows are valid until the next call
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        counts = [part.count for part in parts]
        assert parts
        assert min(counts) > 0
        assert len({part.job.seq_id for part in parts}) == len(parts) <= self.n_sequences
        assert sum(counts) <= self.n_batch or (self.whole and len(parts) == 1)
        for part in parts:
            computed = self.sequences.setdefault(part.job.seq_id, [])
            assert 0 <= part.job.seq_id < self.n_sequences
            assert len(computed) == part.start, "positions must be consecutive"
            computed += part.tokens
            assert not self.whole or part.count == len(part.job.tokens)
        assert sum(map(len, self.sequences.values())) <= self.n_cells, "sequences that are done must be forgotten"
        self.batches.append(counts)
        self._returned = [self._rows(part) for part in parts]
        return self._returned

    def _rows(self, part: EmbeddingPart) -> Vector:
        if self.ranks:
            return np.array([[float(sum(self.sequences[part.job.seq_id]))]])
        return np.array([[token, part.start + i, 1.0] for i, token in enumerate(part.tokens)])

    def forget(self, seq_id: int) -> None:
        self.sequences.pop(seq_id, None)

    def clear(self) -> None:
        self.sequences.clear()


class FakeSampler:
    def sample(self, row: int) -> int:
        raise AssertionError("the fake runner samples from its script")


class FakeRunner:
    """Answers each prompt with its bytes from the script (`ok` if it has none) and then the end token."""

    mixes = True

    def __init__(
        self,
        script: dict[str, bytes] | None = None,
        *,
        n_ctx: int = 100,
        n_batch: int = 64,
        n_cells: int = 400,
        n_sequences: int = 16,
        memory: FakeMemory | None = None,
        gate: Gate | None = None,
        prompt_lookup: int = 0,
        failures: Items[Exception | None] = (),
        failing: Mapping[tuple[str, int], int] | None = None,
        n_score_rows: int | None = None,
        interruptible: bool = False,
    ) -> None:
        """`memory` may have fewer cells than `n_cells`. `failures`: what the first calls of `run` raise, if not None.

        `failing`: tokens after which a choice fails, by its prompt and index.
        """
        self.n_ctx, self.n_batch, self.n_cells, self.n_sequences = n_ctx, n_batch, n_cells, n_sequences
        self.memory = memory or FakeMemory(n_cells)
        self.script = script or {}
        self.gate = gate
        self.prompt_lookup = prompt_lookup
        self.failures = list(failures)
        self.steps: list[list[tuple[str, int]]] = []
        """(prompt, number of tokens computed, including drafts) for each chunk of each step."""
        self.failing = failing or {}
        self.n_score_rows = n_score_rows or n_batch
        self.n_forced: Counter[Sequence] = Counter()
        """Tokens that a reasoning limit added to the script."""
        self.samplers: list[FakeSampler] = []
        self.n_clears = 0
        self.interruptible = interruptible
        self.n_interrupted = 0
        self._interrupted = False

    def run(self, chunks: list[Chunk], threads: int) -> None:
        if self.gate:
            self.gate.enter()
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        if self.memory.n_used + sum(chunk.n_rows for chunk in chunks) > self.memory.n_cells:
            raise NoRoom
        for number, chunk in enumerate(chunks):
            if self._interrupted and number == len(chunks) // 2:
                self.n_interrupted += 1
                raise Interrupted
            self.memory.compute(chunk.sequence.seq_id, chunk.start, chunk.tokens)
        self.steps.append([(self.prompt(chunk.sequence), chunk.n_rows) for chunk in chunks])

    def interrupt(self, value: bool) -> None:
        """True: calls of `run`, also one that waits at the gate, compute half of the chunks and are interrupted."""
        self._interrupted = value and self.interruptible

    def sample(self, chunks: list[Chunk]) -> list[list[int]]:
        for chunk in chunks:
            score(chunk)
        return [self._sample(chunk) if chunk.samples else [] for chunk in chunks]

    def _sample(self, chunk: Chunk) -> list[int]:
        sequence = chunk.sequence
        if sequence.sampler is None:
            self.prepare([sequence])
        answer = array("i", [*self.script.get(self.prompt(sequence), b"ok"), *[END] * (1 + MAX_DRAFT)])
        rest = answer[sequence.n_generated - self.n_forced[sequence] :]
        tokens = list(rest[: 1 + common_prefix(array("i", chunk.draft), rest)])
        if limit := sequence.reasoning_limit:
            forced = limit.forced(sequence.guide.accepts if sequence.guide else lambda _: True)
            tokens = tokens[:1] if forced is None else [forced]
            self.n_forced[sequence] += forced is not None
            limit.push(tokens[0], bytes(tokens))
        n_before_failure = self.failing.get((self.prompt(sequence), sequence.index))
        if n_before_failure is not None and sequence.n_generated + len(tokens) > n_before_failure:
            sequence.error = EngineFailure("this sequence cannot go on")
            return [END]
        if sequence.guide:
            for n, token in enumerate(tokens):
                sequence.guide.accept(token)
                if sequence.guide_ended:
                    del tokens[n + 1 :]
        if sequence.sampling.logprobs is not None:
            start = len(sequence.tokens)
            sequence.scored.extend(fake_score(sequence, start + n, token) for n, token in enumerate(tokens))
        return tokens

    def prompt(self, sequence: Sequence) -> str:
        return bytes(list(sequence.tokens[: sequence.n_prompt])).decode(errors="replace")

    def prepare(self, sequences: Items[Sequence]) -> None:
        for sequence in sequences:
            self.samplers.append(FakeSampler())
            sequence.sampler = self.samplers[-1]

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        return self.memory.usable_prefix(seq_id, length, n)

    def copy(self, source: int, target: int, n: int) -> None:
        self.memory.copy(source, target, n)

    def truncate(self, seq_id: int, n: int) -> bool:
        return self.memory.truncate(seq_id, n)

    def clear(self) -> None:
        self.n_clears += 1
        self.memory.sequences.clear()
        self.memory.forgotten.clear()
