"""Waiting and running sequences, and what the next step computes. PURE.

Batching is continuous: every step takes one token of each decoding sequence first, then fills the rest of the batch
with chunks of prompts, in the order of arrival. While anybody decodes, prompts get at most `prefill_chunk` tokens a
step, so that a long prompt never stalls a stream. Where the model computes such a mixture slowly, prompts have steps of
their own, one after each step of decoding; more, up to a batch's tokens, while fewer sequences decode than have a
prompt to be read, since all of them are served sooner by a fuller batch.

A sequence whose prompt begins like one that is being computed right now waits for it, since a prefix is computed
once. When the KV cells run out, the sequence that was admitted last goes back to the head of the queue and is computed
again later; its tokens and its sampler stay.

With prompt lookup, decoding sequences get drafts of their next tokens into a step that stays small with them. The cells
of drafts are free ones that nobody else needs in this step: only what was accepted takes them.
"""

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from anyserve_worker.kv_cache import KVCache
from anyserve_worker.prompt_lookup import max_rows
from anyserve_worker.sequence import NO_SEQ_ID, Sequence

MIN_SHARED_PREFIX = 16
"""Tokens. It pays to wait a step for a prefix of this length rather than to compute it twice."""
LOOK_AHEAD = 16
"""Waiting sequences that are looked at in a step beyond those that can start."""


@dataclass(slots=True)  # not frozen: one for each token, and frozen ones take three times as long to make
class Chunk:
    """`sequence.tokens[start : start + count]` are computed in this step, and behind them a draft of the next ones."""

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()
    """Only of a chunk that samples."""

    @property
    def n_rows(self) -> int:
        return self.count + len(self.draft)

    @property
    def tokens(self) -> "array[int]":
        """One for each row."""
        tokens = self.sequence.tokens[self.start : self.start + self.count]
        tokens.extend(self.draft)
        return tokens

    @property
    def scores(self) -> bool:
        """How likely the tokens of the prompt are is wanted, and known in this step."""
        return self.sequence.wants_scores

    @property
    def n_logits(self) -> int:
        """The last so many rows need their logits."""
        if self.scores:
            return self.n_rows
        return 1 + len(self.draft) if self.samples else 0

    @property
    def samples(self) -> bool:
        """The chunk reaches the end of the sequence: its last token's logits give the next token, and those of each
        token of the draft one more, as long as the draft turns out to be right."""
        return self.start + self.count == len(self.sequence.tokens)


@dataclass(slots=True)
class Scheduler:
    cache: KVCache
    max_running: int
    batch_tokens: int
    """Most tokens in one step."""
    prefill_chunk: int
    """Most prompt tokens in a step in which somebody decodes."""
    mixes: bool = True
    """Prompts and decoding sequences share a step. False: they take turns, see `model_runner.py`."""
    prompt_lookup: int = 0
    """Most tokens of a draft."""
    score_rows: int = 64
    """Most tokens in a step that belong to prompts whose own probabilities are wanted."""
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    """In the order of admission."""
    n_preempted: int = 0
    _score_rows_left: int = field(init=False, default=0)
    """In the step that is being made."""
    _read: int = field(init=False, default=0)
    """Tokens of prompts in steps of their own since anybody could decode."""
    _holds_back: bool = field(init=False, default=False)
    """Until a step is computed, nobody is admitted: who just gave way would come back, and nothing would be gained."""

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    # ---- One step

    def schedule(self) -> list[Chunk]:
        """The next step. Empty if there is nothing to do."""
        chunks = self._chunks()
        return self._with_drafts(chunks) if self.prompt_lookup else chunks

    def _chunks(self) -> list[Chunk]:
        if self.mixes:
            decodes = list(self._decodes())
            return decodes + self._prompts(self.batch_tokens - len(decodes))
        if self._prompts_are_next() and (chunks := self._prompts(self.batch_tokens)):
            self._read += sum(chunk.count for chunk in chunks)
            return chunks
        self._read = 0
        return list(self._decodes()) or self._prompts(self.batch_tokens)

    def _prompts_are_next(self) -> bool:
        """After each step of decoding; and again, up to a batch's tokens, while fewer decode than have to be read."""
        if not self._read:
            return True
        n_decoding = sum(map(_decodes, self.running))
        n_to_read = min(len(self.running) + len(self.waiting), self.max_running) - n_decoding
        return self._read < self.batch_tokens and n_decoding < n_to_read

    def _prompts(self, budget: int) -> list[Chunk]:
        """Chunks of prompts, of at most `budget` tokens."""
        if any(_decodes(sequence) for sequence in self.running):
            budget = min(budget, self.prefill_chunk)
        chunks: list[Chunk] = []
        self._score_rows_left = self.score_rows
        prefilling = self._prefilling()
        # Nobody is admitted of whom nothing is computed: hence the budget is looked at first.
        while budget > 0 and (sequence := next(prefilling, None)):
            count = min(budget, sequence.n_remaining)
            if sequence.wants_scores:
                count = min(count, self._score_rows_left)
                self._score_rows_left -= count
            budget -= count
            chunks.append(Chunk(sequence, sequence.n_computed, count))
        return chunks

    def _with_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        """The same step, with drafts if everybody in it decodes and rows and cells are left."""
        room = min(max_rows(self.prompt_lookup), self.batch_tokens) - len(chunks)
        room = min(room, self.cache.n_free_cells)
        if room <= 0 or not all(_decodes(chunk.sequence) for chunk in chunks):
            return chunks
        drafted: list[Chunk] = []
        for n_left, chunk in zip(range(len(chunks), 0, -1), chunks, strict=True):
            sequence = chunk.sequence
            n_wanted = sequence.limit - len(sequence.tokens) - 1  # One more token is sampled than is accepted.
            most = min(self.prompt_lookup, room // n_left, n_wanted)
            draft = sequence.lookup.draft(sequence.tokens, most) if most > 0 else ()
            room -= len(draft)
            drafted.append(replace(chunk, draft=draft))
        return drafted

    def commit(self, chunks: list[Chunk], sampled: list[list[int]]) -> None:
        """The step was computed. `sampled`: of each chunk the accepted tokens of its draft and a new one, or nothing.

        To be appended to the sequences by the caller.
        """
        self._holds_back = False
        for chunk, tokens in zip(chunks, sampled, strict=True):
            sequence = chunk.sequence
            sequence.n_computed = chunk.start + chunk.count
            if chunk.draft:
                n_accepted = len(tokens) - 1
                sequence.n_computed += n_accepted
                sequence.lookup.record(len(chunk.draft), n_accepted)
                self.cache.accept(sequence.seq_id, sequence.n_computed)
            self.cache.commit(sequence.seq_id, sequence.n_computed)
        self.cache.pass_time(len(chunks))

    # ---- Ends

    def remove(self, sequence: Sequence) -> None:
        """The sequence is finished or unwanted, in whatever state it is."""
        if sequence.seq_id == NO_SEQ_ID:
            self.waiting.remove(sequence)
        else:
            self._stop(sequence)

    def relieve(self) -> bool:
        """The model found no place for a step: makes some. False if there is nothing left to give up."""
        if self.cache.evict_all():
            return True
        if len(self.running) > 1:
            self._preempt(self.running[-1])
            self._holds_back = True
            return True
        return False

    # ---- Inside

    def _decodes(self) -> Iterator[Chunk]:
        for sequence in list(self.running):
            if _decodes(sequence) and self._grow(sequence):
                yield Chunk(sequence, sequence.n_computed, 1)

    def _grow(self, sequence: Sequence) -> bool:
        """A cell for one more token, at the cost of those admitted last. False if it had to go itself, or was gone."""
        while sequence.seq_id != NO_SEQ_ID:
            if self.cache.grow(sequence.seq_id, len(sequence.tokens)):
                return True
            self._preempt(self.running[-1])
        return False

    def _prefilling(self) -> Iterator[Sequence]:
        """Running sequences with a prompt to compute, then waiting ones as they are admitted."""
        for sequence in list(self.running):
            if not _decodes(sequence) and self._has_rows_for(sequence):
                yield sequence
        if not self._holds_back or not self.running:
            yield from self._admit()

    def _admit(self) -> Iterator[Sequence]:
        candidates = list(islice(self.waiting, self.max_running - len(self.running) + LOOK_AHEAD))
        for sequence in candidates:
            if len(self.running) >= self.max_running:
                return
            if self._is_being_computed(sequence) or not self._has_rows_for(sequence):
                continue
            # A prefix that is not computed tells nothing of its probabilities.
            acquired = self.cache.acquire(sequence.tokens, reuse=not sequence.wants_scores)
            if acquired is None:
                return  # Nobody overtakes a sequence that needs room.
            self.waiting.remove(sequence)
            self.running.append(sequence)
            sequence.seq_id, sequence.n_computed = acquired
            if sequence.n_cached < 0:
                sequence.n_cached = sequence.n_computed
            yield sequence

    def _has_rows_for(self, sequence: Sequence) -> bool:
        return self._score_rows_left > 0 or not sequence.wants_scores

    def _is_being_computed(self, sequence: Sequence) -> bool:
        promised = self.cache.promised_prefix(sequence.tokens)
        if promised < MIN_SHARED_PREFIX or sequence.wants_scores:
            return False
        _, available = self.cache.best_prefix(sequence.tokens)
        return promised - available >= MIN_SHARED_PREFIX

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        self.waiting.appendleft(sequence)
        self.n_preempted += 1

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.cache.release(sequence.seq_id)
        sequence.seq_id, sequence.n_computed = NO_SEQ_ID, 0


def _decodes(sequence: Sequence) -> bool:
    return sequence.n_remaining == 1 and sequence.n_generated > 0
