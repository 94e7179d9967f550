"""Waiting and running sequences, and what the next step computes. PURE.

Batching is continuous: every step takes one token of each decoding sequence first, then fills the rest of the batch
with chunks of prompts. While any sequence decodes, prompts get at most `prefill_chunk` tokens a step, so that a long
prompt never stalls a stream. Where the model computes such a mixture slowly, prompts have steps of their own, one after
each step of decoding; more, up to a batch's tokens, while fewer sequences decode than have a prompt to be read, since
all of them are served sooner by a fuller batch.

A step with prompts is bounded by time, `StepPace`, since a prompt that arrives meanwhile waits for its end. A quarter
of its prompt tokens belongs to the first in line: it is read in at most four times the time that it takes alone, and so
no prompt starves. The rest goes by size, so that a short prompt isn't stuck behind a long one. Both orders are fair
between callers: `PromptLine`.

Long prompts may hold all slots and cells that there are for them; a few more are kept for prompts of at most
SHORT_PROMPT tokens. Only these overtake a prompt that waits for room, and they take none of its room. (A long prompt
could yield instead. But one that decodes would stall its stream, and its cells last only where the memory can be cut
and prefixes are cached.)

A sequence whose prompt begins like one that is being computed right now waits for it, since a prefix is computed
once. Its tokens of the step go to the sequence that it waits for, up to the end of the prefix: waiting for the prefix
takes no longer than computing it.

When the KV cells run out, the sequence that was admitted last goes back to the head of the queue and is computed again
later; its tokens and its sampler stay.

With prompt lookup, decoding sequences get drafts of their next tokens into a step that stays small with them. The cells
of drafts are free ones that nothing else needs in this step: only what was accepted takes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from anyserve_worker.core.options import SHORT_PROMPT
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.kv_cache import KVCache
from anyserve_worker.scheduling.prompt_line import PromptLine
from anyserve_worker.scheduling.prompt_lookup import max_rows
from anyserve_worker.scheduling.sequence import NO_SEQ_ID, Sequence
from anyserve_worker.scheduling.step_pace import StepPace

MIN_SHARED_PREFIX = 16
"""Tokens. It pays to wait a step for a prefix of this length rather than to compute it twice."""
N_EXTRA_CANDIDATES = 16
"""Waiting sequences that a step considers beyond those that can start."""
FIRST_SHARE = 4
"""The first in line has one in so many prompt tokens of each step."""


@dataclass(slots=True)
class Scheduler:
    cache: KVCache
    max_running: int
    batch_tokens: int
    """Most tokens in one step."""
    prefill_chunk: int
    """Most prompt tokens in a step in which a sequence decodes."""
    mixes: bool = True
    """Prompts and decoding sequences share a step. False: they take turns, see `model_runner.py`."""
    prompt_lookup: int = 0
    """Most tokens of a draft."""
    score_rows: int = 64
    """Most tokens in a step that belong to prompts whose own probabilities are wanted."""
    kept_slots: int = 0
    """Slots beyond `max_running` that only short prompts use, while long ones hold slots."""
    kept_cells: int = 0
    """KV cells that only short prompts use. All others are enough for a sequence that fills the context."""
    waiting: PromptLine[Sequence] = field(default_factory=PromptLine)
    running: list[Sequence] = field(default_factory=list)
    """In the order of admission."""
    pace: StepPace = field(default_factory=StepPace)
    n_preempted: int = 0
    _reserve: int = field(init=False, default=0)
    """Kept cells that no short prompt holds at the moment."""
    _score_rows_left: int = field(init=False, default=0)
    """In the step that is being made."""
    _read: int = field(init=False, default=0)
    """Tokens of prompts in steps of their own since any sequence could decode."""
    _holds_back: bool = field(init=False, default=False)
    """Nothing is admitted until a step is computed: what just gave way would come back, and nothing would be gained."""

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        n_cached = 0 if sequence.wants_scores else self.cache.best_prefix(sequence.tokens, sequence.prefix_key)[1]
        self.waiting.add(sequence, len(sequence.tokens) - n_cached)

    # ---- One step

    def schedule(self) -> list[Chunk]:
        """The next step. Empty if there is nothing to do."""
        chunks = self._chunks()
        return self._with_drafts(chunks) if self.prompt_lookup else chunks

    def _chunks(self) -> list[Chunk]:
        self._count_kept()
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
        return self._read < self._bounded(self.batch_tokens) and n_decoding < n_to_read

    def _bounded(self, n_tokens: int) -> int:
        """As many of these tokens as a step may have. All of them if no prompt could join the next step anyway: then an
        answer doesn't depend on how fast the steps before it were."""
        return self.pace.bound(n_tokens) if self.max_running > 1 else n_tokens

    def _prompts(self, budget: int) -> list[Chunk]:
        """Chunks of prompts, of at most `budget` tokens."""
        if any(_decodes(sequence) for sequence in self.running):
            budget = min(budget, self.prefill_chunk)
        budget = self._bounded(budget)
        self._score_rows_left = self.score_rows
        admission = _Admission(self)
        shares: dict[Sequence, int] = {}

        def give(sequence: Sequence, max_tokens: int) -> int:
            """Admits the sequence if it waits. Returns how many tokens it got, or the producer of its prefix."""
            served, share = admission.served(sequence)
            if served is None:
                return 0
            n = max(0, min(max_tokens, share - shares.get(served, 0)))
            if served.wants_scores:
                n = min(n, self._score_rows_left)
                self._score_rows_left -= n
            if n:
                shares[served] = shares.get(served, 0) + n
            return n

        # A sequence is admitted only if some of it is computed: hence the budget comes first.
        if budget > 0 and (first := self.waiting.first()):
            budget -= give(first, max(1, budget // FIRST_SHARE))
        for sequence in self._by_size() if budget > 0 else ():
            budget -= give(sequence, budget)
            if budget <= 0:
                break
        return [Chunk(sequence, sequence.n_computed, n) for sequence, n in shares.items()]

    def _by_size(self) -> list[Sequence]:
        """Running sequences with a prompt to compute and waiting ones that may be admitted. In each rank, those that
        are being read come first, with the fewest remaining tokens."""
        rank = self.waiting.rank
        reading = sorted((s for s in self.running if not _decodes(s)), key=lambda s: (rank(s), s.n_remaining))
        n_free = self.max_running + self.kept_slots - len(self.running)
        if n_free <= 0 or not self.waiting or (self._holds_back and self.running):
            return reading
        return sorted([*reading, *self.waiting.by_size(n_free + N_EXTRA_CANDIDATES)], key=rank)  # Stable.

    def _with_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        """The same step, with drafts if every sequence in it decodes and rows and cells are left."""
        room = min(max_rows(self.prompt_lookup), self.batch_tokens) - len(chunks)
        room = min(room, self.cache.n_free_cells - self._reserve)
        if room <= 0 or not all(_decodes(chunk.sequence) for chunk in chunks):
            return chunks
        drafted: list[Chunk] = []
        for n_left, chunk in zip(range(len(chunks), 0, -1), chunks, strict=True):
            sequence = chunk.sequence
            n_wanted = sequence.limit - len(sequence.tokens) - 1  # One more token is sampled than is accepted.
            max_draft = min(self.prompt_lookup, room // n_left, n_wanted)
            draft = sequence.lookup.draft(sequence.tokens, max_draft) if max_draft > 0 else ()
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
            if chunk.samples and sequence in self.waiting:
                self.waiting.leave(sequence)
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
        if sequence in self.waiting:
            self.waiting.leave(sequence)
        if sequence.seq_id != NO_SEQ_ID:
            self._stop(sequence)

    def make_room(self) -> bool:
        """Frees cells after the model found none for a step. Returns False if there is nothing left to give up."""
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
            reserve = 0 if _is_short(sequence) else self._reserve
            if self.cache.grow(sequence.seq_id, len(sequence.tokens), reserve):
                return True
            # A short sequence holds kept cells, which are of no use for a long one.
            self._preempt(next(s for s in reversed(self.running) if not reserve or not _is_short(s)))
            self._count_kept()
        return False

    def _count_kept(self) -> None:
        if self.kept_cells:
            held = sum(self.cache.n_cells_of(s.seq_id) for s in self.running if _is_short(s))
            self._reserve = max(0, self.kept_cells - held)

    def _has_slot_for(self, sequence: Sequence, *, kept_only: bool) -> bool:
        """Whether there is a slot. `kept_only`: for a short prompt that fits into the kept cells."""
        n_short = sum(map(_is_short, self.running)) if self.kept_slots else 0
        if kept_only:
            # One slot stays free for the sequence that waits for cells.
            slot = n_short < self.kept_slots or len(self.running) + 1 < self.max_running
            return slot and _is_short(sequence) and len(sequence.tokens) <= self._reserve
        n_running = len(self.running) - (0 if _is_short(sequence) else min(n_short, self.kept_slots))
        return n_running < self.max_running

    def _admit(self, sequence: Sequence) -> bool:
        """False if there is no room."""
        acquired = self.cache.acquire(
            sequence.tokens,
            sequence.prefix_key,
            reuse=not sequence.wants_scores,  # A prefix that is not computed has no probabilities.
            reserve=0 if _is_short(sequence) else self._reserve,
        )
        if acquired is None:
            return False
        self.waiting.start(sequence, len(sequence.tokens) - acquired[1])
        self.running.append(sequence)
        sequence.seq_id, sequence.n_computed = acquired
        if sequence.n_cached < 0:
            sequence.n_cached = sequence.n_computed
        self._count_kept()
        return True

    def _computing_prefix(self, sequence: Sequence) -> tuple[Sequence, int] | None:
        """The running sequence that computes a prefix which it pays to wait for, and the missing tokens."""
        if sequence.wants_scores:
            return None
        seq_id, promised = self.cache.promised_prefix(sequence.tokens, sequence.prefix_key)
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
    """Admits waiting sequences while one step is made."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._blocked = False
        """A sequence waits for room: only short prompts within the kept slots and cells overtake it."""

    def served(self, sequence: Sequence) -> tuple[Sequence | None, int]:
        """(the sequence that gets this one's turn, the most tokens that it may have in the step). None: no sequence."""
        scheduler = self._scheduler
        if sequence.wants_scores and scheduler._score_rows_left <= 0:
            return None, 0
        if sequence.seq_id != NO_SEQ_ID:
            return (None if _decodes(sequence) else sequence), sequence.n_remaining
        if scheduler._holds_back and scheduler.running:
            return None, 0
        # Cheap conditions come first: every step looks at the head of the line.
        if not scheduler._has_slot_for(sequence, kept_only=self._blocked):
            if self._blocked or not scheduler._has_slot_for(sequence, kept_only=True):
                self._blocked = True
                return None, 0
            self._blocked = True
        if found := scheduler._computing_prefix(sequence):
            producer, missing = found
            return (None if _decodes(producer) else producer), missing
        if scheduler._admit(sequence):
            return sequence, sequence.n_remaining
        self._blocked = True
        return None, 0


def _is_short(sequence: Sequence) -> bool:
    return sequence.n_prompt <= SHORT_PROMPT


def _decodes(sequence: Sequence) -> bool:
    return sequence.n_remaining == 1 and sequence.n_generated > 0
