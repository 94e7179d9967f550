"""Decides which tokens of the waiting and running sequences the next step computes. PURE.

`tiers.py` has a scheduler for ordinary sequences and others for background work, which get what is left of a step.

Batching is continuous: every step takes one token of each decoding sequence first, then fills the rest of the batch
with chunks of prompts. While any sequence decodes, prompts get at most `prefill_chunk` tokens per step, so that a long
prompt never stalls a stream. Where the model computes such a mixture slowly, prompts have separate steps, one after
each decode step. They have more, up to the tokens of a batch, while fewer sequences decode than have a prompt to read,
since a fuller batch serves all of them sooner.

`StepPace` bounds the time of a step with prompts, since a prompt that arrives meanwhile waits for its end. A quarter of
its prompt tokens is reserved for the first in line, which is therefore read in at most four times the time it takes
alone: no prompt starves. The rest is ordered by size, so that a short prompt isn't stuck behind a long one. Both orders
are fair between callers: `PromptLine`.

Long prompts may hold all ordinary slots and cells; a few more are kept for prompts of at most SHORT_PROMPT tokens. Only
these overtake a prompt that waits for room, and they take none of its room. (A long prompt could yield instead. But a
decoding one would stall its stream, and its cells survive only where the memory can be truncated and prefixes are
cached.)

A prefix is computed once: a sequence whose prompt begins like one that is being computed waits for it. The waiting
sequence's tokens of the step go to the other one, up to the end of the prefix, so waiting takes no longer than
computing.

When the KV cells run out, the sequence admitted last returns to the head of the queue and is computed again later. It
keeps its tokens and its sampler.

With prompt lookup, decoding sequences get drafts of their next tokens, if the step stays small with them. Drafts use
cells that nothing else needs in the step, and only accepted tokens keep them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from anyserve_worker.core.options import SHORT_PROMPT
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.kv_cache import KVCache
from anyserve_worker.scheduling.prompt_line import PromptLine
from anyserve_worker.scheduling.prompt_lookup import max_rows
from anyserve_worker.scheduling.sequence import NO_SEQ_ID, Sequence
from anyserve_worker.scheduling.step_pace import StepPace

MIN_SHARED_PREFIX = 16
"""Minimum tokens of a prefix that is worth waiting a step for, instead of computing it twice."""
N_EXTRA_CANDIDATES = 16
"""Waiting sequences that a step considers in addition to those that can start."""
FIRST_SHARE = 4
"""The first in line gets one in this many prompt tokens of each step."""


@dataclass(slots=True)
class Scheduler:
    cache: KVCache
    max_running: int
    batch_tokens: int
    """Maximum tokens in one step."""
    prefill_chunk: int
    """Maximum prompt tokens in a step in which a sequence decodes."""
    mixes: bool = True
    """Whether prompts and decoding sequences share a step. False: they take turns, see `model_runner.py`."""
    prompt_lookup: int = 0
    """Maximum tokens of a draft; 0: no drafts."""
    score_rows: int = 64
    """Maximum tokens in a step of prompts whose log probabilities are requested."""
    kept_slots: int = 0
    """Slots beyond `max_running`, for short prompts while long ones hold slots."""
    kept_cells: int = 0
    """KV cells that only short prompts use. The others suffice for a sequence that fills the context."""
    waiting: PromptLine[Sequence] = field(default_factory=PromptLine)
    running: list[Sequence] = field(default_factory=list)
    """In the order of admission."""
    pace: StepPace = field(default_factory=StepPace)
    n_preempted: int = 0
    tier: int = 0
    """0, or a greater number for background work."""
    spared_cells: int = 0
    """Free cells that no new sequence takes, for sequences of lower tiers that run."""
    make_way: Callable[[], bool] = lambda: False
    """Preempts a sequence of a higher tier. Returns False if there is none."""
    _reserve: int = field(init=False, default=0)
    """Kept cells that no short prompt currently holds."""
    _score_rows_left: int = field(init=False, default=0)
    """Tokens left of `score_rows`, in the step being scheduled."""
    _n_read: int = field(init=False, default=0)
    """Prompt tokens in separate steps since the last decode step."""
    _admission_paused: bool = field(init=False, default=False)
    """Admit nothing until a step is computed. Otherwise the sequence just preempted would return at once."""

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        n_cached = 0 if sequence.wants_scores else self.cache.best_prefix(sequence.tokens, sequence.prefix_key)[1]
        self.waiting.add(sequence, len(sequence.tokens) - n_cached)

    # ---- One step

    def schedule(self) -> list[Chunk]:
        """Returns the chunks of the next step. Empty if there is nothing to compute."""
        self._count_kept()
        chunks = self._chunks()
        return self._with_drafts(chunks) if self.prompt_lookup else chunks

    def schedule_part(self, max_decodes: int, prompt_tokens: Callable[[int], int], score_rows: int = 0) -> list[Chunk]:
        """Returns chunks for a part of a step, with at most `max_decodes` decoding sequences, and no drafts.

        `prompt_tokens` returns the maximum tokens of prompts beside a number of decoding sequences. At most
        `score_rows` of them are of prompts whose log probabilities are requested.
        """
        decodes = list(islice(self._decodes(), max(0, max_decodes)))
        if decodes and not self.mixes:
            return decodes
        return decodes + self._prompts(prompt_tokens(len(decodes)), score_rows)

    def _chunks(self) -> list[Chunk]:
        if self.mixes:
            decodes = list(self._decodes())
            return decodes + self._prompts(self.batch_tokens - len(decodes))
        if self._prompts_are_next() and (chunks := self._prompts(self.batch_tokens)):
            self._n_read += sum(chunk.count for chunk in chunks)
            return chunks
        self._n_read = 0
        return list(self._decodes()) or self._prompts(self.batch_tokens)

    def _prompts_are_next(self) -> bool:
        """Returns whether the next separate step is for prompts.

        It is after each decode step, and again, up to a batch's tokens, while more prompts wait than sequences decode.
        """
        if not self._n_read:
            return True
        n_decoding = sum(map(_decodes, self.running))
        n_to_read = min(len(self.running) + len(self.waiting), self.max_running) - n_decoding
        return self._n_read < self._bounded(self.batch_tokens) and n_decoding < n_to_read

    def _bounded(self, n_tokens: int) -> int:
        """Returns how many of `n_tokens` a step may have.

        It is all of them if only one sequence can run: then an answer doesn't depend on the speed of earlier steps.
        """
        return self.pace.bound(n_tokens) if self.max_running > 1 else n_tokens

    def _prompts(self, budget: int, score_rows: int | None = None) -> list[Chunk]:
        """Returns chunks of prompts with at most `budget` tokens, `score_rows` of them (None: the usual number) of
        prompts whose log probabilities are requested."""
        if any(_decodes(sequence) for sequence in self.running):
            budget = min(budget, self.prefill_chunk)
        budget = self._bounded(budget)
        self._score_rows_left = self.score_rows if score_rows is None else score_rows
        admission = _Admission(self)
        shares: dict[Sequence, int] = {}

        def assign(sequence: Sequence, max_tokens: int) -> int:
            """Admits the sequence if it waits. Returns the tokens assigned to it, or to the producer of its prefix."""
            target, share = admission.target(sequence)
            if target is None:
                return 0
            n = max(0, min(max_tokens, share - shares.get(target, 0)))
            if target.wants_scores:
                n = min(n, self._score_rows_left)
                self._score_rows_left -= n
            if n:
                shares[target] = shares.get(target, 0) + n
            return n

        # The budget is checked first, because an admitted sequence must have tokens in the step.
        if budget > 0 and (first := self.waiting.first()):
            budget -= assign(first, max(1, budget // FIRST_SHARE))
        for sequence in self._by_size() if budget > 0 else ():
            budget -= assign(sequence, budget)
            if budget <= 0:
                break
        return [Chunk(sequence, sequence.n_computed, n) for sequence, n in shares.items()]

    def _by_size(self) -> list[Sequence]:
        """Returns the running sequences with a prompt to compute, and waiting ones that may be admitted, by rank.

        In each rank, prompts already being read come first, by the fewest remaining tokens.
        """
        rank = self.waiting.rank
        reading = sorted((s for s in self.running if not _decodes(s)), key=lambda s: (rank(s), s.n_remaining))
        n_free = self.max_running + self.kept_slots - len(self.running)
        if n_free <= 0 or not self.waiting or (self._admission_paused and self.running):
            return reading
        return sorted([*reading, *self.waiting.by_size(n_free + N_EXTRA_CANDIDATES)], key=rank)  # Stable.

    def _with_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        """Adds drafts to the step if all of its sequences decode, and rows and cells are left."""
        room = min(max_rows(self.prompt_lookup), self.batch_tokens) - len(chunks)
        room = min(room, self.cache.n_free_cells - self._reserve)
        if room <= 0 or not all(_decodes(chunk.sequence) for chunk in chunks):
            return chunks
        drafted: list[Chunk] = []
        for n_left, chunk in zip(range(len(chunks), 0, -1), chunks, strict=True):
            sequence = chunk.sequence
            n_wanted = sequence.limit - len(sequence.tokens) - 1  # The step samples one token more than it accepts.
            max_draft = min(self.prompt_lookup, room // n_left, n_wanted)
            draft = sequence.lookup.draft(sequence.tokens, max_draft) if max_draft > 0 else ()
            room -= len(draft)
            drafted.append(replace(chunk, draft=draft))
        return drafted

    def commit(self, chunks: list[Chunk], sampled: list[list[int]]) -> None:
        """Updates the state after a computed step.

        `sampled`: for each chunk, the accepted tokens of its draft and a new one, or nothing. The caller appends them
        to the sequences.
        """
        self._admission_paused = False
        for chunk, tokens in zip(chunks, sampled, strict=True):
            sequence = chunk.sequence
            if chunk.samples and sequence in self.waiting:
                self.waiting.leave(sequence)
            sequence.n_computed = chunk.start + chunk.count
            if chunk.draft:
                n_accepted = len(tokens) - 1
                sequence.n_computed += n_accepted
                sequence.lookup.record(len(chunk.draft), n_accepted)
                self.cache.accept(sequence.seq_id, sequence.n_computed)
            self.cache.commit(sequence.seq_id, sequence.n_computed)
        self.cache.pass_time(len(chunks), tier=self.tier)

    # ---- Ends

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence in any state."""
        if sequence in self.waiting:
            self.waiting.leave(sequence)
        if sequence.seq_id != NO_SEQ_ID:
            self._stop(sequence)

    def make_room(self) -> bool:
        """Frees cells after the model found none for a step. Returns False if nothing can be freed."""
        if self.cache.evict_all():
            return True
        return len(self.running) > 1 and self.preempt_last()

    def preempt_last(self) -> bool:
        """Preempts the sequence admitted last, and admits none until a step is computed. Returns False if none runs."""
        if not self.running:
            return False
        self._preempt(self.running[-1])
        self._admission_paused = True
        return True

    # ---- Inside

    def _decodes(self) -> Iterator[Chunk]:
        for sequence in list(self.running):
            if _decodes(sequence) and self._grow(sequence):
                yield Chunk(sequence, sequence.n_computed, 1)

    def _grow(self, sequence: Sequence) -> bool:
        """Reserves a cell for one more token, by preempting the sequences admitted last if needed.

        Returns False if the sequence isn't running, or was preempted itself.
        """
        while sequence.seq_id != NO_SEQ_ID:
            reserve = 0 if _is_short(sequence) else self._reserve
            if self.cache.grow(sequence.seq_id, len(sequence.tokens), reserve):
                return True
            if self.make_way():
                continue
            # Preempting a short sequence frees kept cells, which a long one can't use.
            self._preempt(next(s for s in reversed(self.running) if not reserve or not _is_short(s)))
            self._count_kept()
        return False

    def _count_kept(self) -> None:
        if self.kept_cells:
            held = sum(self.cache.n_cells_of(s.seq_id) for s in self.running if _is_short(s))
            self._reserve = max(0, self.kept_cells - held)

    def _has_slot_for(self, sequence: Sequence, *, kept_only: bool) -> bool:
        """Returns whether a slot is free. `kept_only`: only for a short prompt that fits into the kept cells."""
        n_short = sum(map(_is_short, self.running)) if self.kept_slots else 0
        if kept_only:
            # One slot stays free for the sequence that waits for cells.
            slot = n_short < self.kept_slots or len(self.running) + 1 < self.max_running
            return slot and _is_short(sequence) and len(sequence.tokens) <= self._reserve
        n_running = len(self.running) - (0 if _is_short(sequence) else min(n_short, self.kept_slots))
        return n_running < self.max_running

    def _admit(self, sequence: Sequence) -> bool:
        """Returns False if there is no room."""
        while (acquired := self._acquire(sequence)) is None:
            if not self.make_way():
                return False
        self.waiting.start(sequence, len(sequence.tokens) - acquired[1])
        self.running.append(sequence)
        sequence.seq_id, sequence.n_computed = acquired
        if sequence.n_cached < 0:
            sequence.n_cached = sequence.n_computed
        self._count_kept()
        return True

    def _acquire(self, sequence: Sequence) -> tuple[int, int] | None:
        return self.cache.acquire(
            sequence.tokens,
            sequence.prefix_key,
            reuse=not sequence.wants_scores,  # A cached prefix has no log probabilities.
            reserve=self.spared_cells if _is_short(sequence) else self._reserve + self.spared_cells,
            tier=self.tier,
        )

    def _computing_prefix(self, sequence: Sequence) -> tuple[Sequence, int] | None:
        """Returns (running sequence, missing tokens) if the sequence computes a prefix that is worth waiting for."""
        if sequence.wants_scores:
            return None
        seq_id, promised = self.cache.promised_prefix(sequence.tokens, sequence.prefix_key, tier=self.tier)
        if promised < MIN_SHARED_PREFIX:
            return None
        _, n_cached = self.cache.best_prefix(sequence.tokens, sequence.prefix_key)
        if promised - n_cached < MIN_SHARED_PREFIX:
            return None
        producer = next(s for s in self.running if s.seq_id == seq_id)
        return producer, promised - producer.n_computed

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        self.waiting.put_back(sequence, len(sequence.tokens))
        self.n_preempted += 1

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.cache.release(sequence.seq_id)
        sequence.seq_id, sequence.n_computed = NO_SEQ_ID, 0


class _Admission:
    """Admits waiting sequences while one step is scheduled."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._blocked = False
        """A sequence waits for room: only short prompts in the kept slots and cells may overtake it."""

    def target(self, sequence: Sequence) -> tuple[Sequence | None, int]:
        """Returns (the sequence to compute in this one's turn or None, its maximum tokens in the step)."""
        scheduler = self._scheduler
        if sequence.wants_scores and scheduler._score_rows_left <= 0:
            return None, 0
        if sequence.seq_id != NO_SEQ_ID:
            return (None if _decodes(sequence) else sequence), sequence.n_remaining
        if scheduler._admission_paused and scheduler.running:
            return None, 0
        # Cheap conditions come first, since every step checks the head of the line.
        if not scheduler._has_slot_for(sequence, kept_only=self._blocked):
            if self._blocked or not scheduler._has_slot_for(sequence, kept_only=True):
                self._blocked = True
                return None, 0
            self._blocked = True
        if dependency := scheduler._computing_prefix(sequence):
            producer, missing = dependency
            return (None if _decodes(producer) else producer), missing
        if scheduler._admit(sequence):
            return sequence, sequence.n_remaining
        self._blocked = True
        return None, 0


def _is_short(sequence: Sequence) -> bool:
    return sequence.n_prompt <= SHORT_PROMPT


def _decodes(sequence: Sequence) -> bool:
    return sequence.n_remaining == 1 and sequence.n_generated > 0
