"""Schedules ordinary sequences and background work in tiers, which share one KV cache. PURE: times are passed in.

Tier 0 has the ordinary sequences, tier 1 background requests whose clients wait (flex), tier 2 lines of batches. A tier
is scheduled as if the tiers above it did not exist: they yield slots, sequence ids and KV cells to it, the sequence
admitted last first. A sequence that yields keeps its tokens and its sampler, and its cells become a cached prefix,
which is evicted before others. A background sequence whose room isn't needed keeps its cells while it pauses.

`background.py` decides how much of a step the upper tiers get.
"""

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import partial

from anyserve_worker.scheduling.background import MIN_ADDED_TOKENS, SHORT_STEP_SECONDS, BackgroundPolicy
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.kv_cache import KVCache
from anyserve_worker.scheduling.prompt_lookup import max_rows
from anyserve_worker.scheduling.scheduler import Scheduler
from anyserve_worker.scheduling.sequence import Sequence
from anyserve_worker.scheduling.step_pace import StepPace
from protos import contract

SPARED_CELLS = 64
"""KV cells that background work leaves free for each ordinary sequence that runs."""
LAST_EVERY = 4
"""One in this many short steps is for the highest tier, so that batches never starve."""


def tier_of(priority: int) -> int:
    """Returns the tier of a request: 0, 1 (flex) or 2 (batch)."""
    if priority < contract.BACKGROUND_PRIORITY:
        return 0
    return 1 if priority < contract.BATCH_PRIORITY else 2


class Kind(Enum):
    ORDINARY = auto()
    """There is no background work."""
    BESIDE = auto()
    """Ordinary work, perhaps with background work beside it."""
    SHARE = auto()
    """Background work that was held back for long enough. Ordinary work waits for it."""
    ALONE = auto()
    """Background work while there is no other. The step ends as soon as an ordinary request arrives, if possible."""


@dataclass(slots=True)
class Step:
    """The chunks of a step, by tier."""

    chunks: list[Chunk]
    parts: list[tuple[Scheduler, int]]
    """The schedulers of the chunks, in their order, each with its number of chunks."""
    kind: Kind = Kind.ORDINARY
    short: bool = False
    """Whether the step is limited to a few rows, so that ordinary requests needn't wait for long."""

    def add(self, scheduler: Scheduler, chunks: list[Chunk]) -> int:
        """Adds the chunks of a scheduler, and returns their rows."""
        if chunks:
            self.chunks = self.chunks + chunks
            self.parts.append((scheduler, len(chunks)))
        return sum(chunk.n_rows for chunk in chunks)

    @property
    def n_tokens(self) -> int:
        return sum(chunk.n_rows for chunk in self.chunks)

    @property
    def sets_pace(self) -> bool:
        """Whether the step has prompts, as many as an ordinary step may have."""
        if self.kind is Kind.BESIDE:
            return self.ordinary_reads
        return not self.short and any(chunk.count > 1 for chunk in self.chunks)

    @property
    def ordinary_reads(self) -> bool:
        """Whether an ordinary prompt is in the step."""
        scheduler, n = self.parts[0]
        return not scheduler.tier and any(chunk.count > 1 for chunk in self.chunks[:n])

    @property
    def n_background_tokens(self) -> int:
        return sum(chunk.n_rows for chunk in self.chunks[-self.n_background_chunks or len(self.chunks) :])

    @property
    def n_background_chunks(self) -> int:
        return sum(n for scheduler, n in self.parts if scheduler.tier)


@dataclass(slots=True)
class Tiers:
    ordinary: Scheduler
    policy: BackgroundPolicy
    _background: tuple[Scheduler, ...] = field(init=False)
    _schedulers: tuple[Scheduler, ...] = field(init=False)
    _n_short: int = field(init=False, default=0)
    """Short steps of background work so far."""

    def __post_init__(self) -> None:
        ordinary = self.ordinary
        # Slots and cells that are kept for short prompts are for ordinary ones, which take them whenever they need to.
        self._background = tuple(
            replace(ordinary, tier=tier, kept_slots=0, kept_cells=0, waiting=type(ordinary.waiting)(), running=[])
            for tier in (1, 2)
        )
        self._schedulers = (ordinary, *self._background)
        for scheduler in self._schedulers:
            scheduler.make_way = partial(self._preempt_above, scheduler.tier)

    # ---- State

    @property
    def cache(self) -> KVCache:
        return self.ordinary.cache

    @property
    def pace(self) -> StepPace:
        return self.ordinary.pace

    @property
    def idle(self) -> bool:
        return self.ordinary.idle and self.background_idle

    @property
    def background_idle(self) -> bool:
        flex, batch = self._background
        return not (flex.running or batch.running or flex.waiting or batch.waiting)

    @property
    def running(self) -> list[Sequence]:
        return [sequence for scheduler in self._schedulers for sequence in scheduler.running]

    @property
    def n_running(self) -> int:
        return sum(len(scheduler.running) for scheduler in self._schedulers)

    @property
    def n_waiting(self) -> int:
        return sum(len(scheduler.waiting) for scheduler in self._schedulers)

    @property
    def n_ordinary_cells(self) -> int:
        """KV cells of running ordinary sequences. Where there is background work, shared ones count several times."""
        if self.background_idle:
            return self.cache.n_running_cells
        return sum(sequence.n_computed for sequence in self.ordinary.running)

    @property
    def n_preempted(self) -> int:
        return sum(scheduler.n_preempted for scheduler in self._schedulers)

    @property
    def n_background_preempted(self) -> int:
        return sum(scheduler.n_preempted for scheduler in self._background)

    def _tier(self, sequence: Sequence) -> Scheduler:
        return self._schedulers[tier_of(sequence.priority)]

    def add(self, sequence: Sequence) -> None:
        self._tier(sequence).add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence in any state."""
        self._tier(sequence).remove(sequence)

    # ---- One step

    def schedule(self, now: float, *, busy: bool = False) -> Step:
        """Returns the next step, without chunks if there is nothing to compute now.

        `busy`: whether there is ordinary work besides sequences.
        """
        ordinary = self.ordinary
        if self.background_idle:
            chunks = ordinary.schedule()
            if chunks:
                self.policy.last_ordinary = now
            return Step(chunks, [(ordinary, len(chunks))])
        if ordinary.idle and not busy:
            seconds = self.policy.seconds_alone(now)
            return self._alone() if seconds is None else self._short(Kind.ALONE, seconds)
        self.policy.last_ordinary = now
        if self.policy.share_is_due:
            step = self._short(Kind.SHARE, SHORT_STEP_SECONDS)
            if step.chunks:
                return step
        return self._beside()

    def _beside(self) -> Step:
        """Returns an ordinary step, with the background work that it may have."""
        chunks = self.ordinary.schedule()
        step = Step(chunks, [(self.ordinary, len(chunks))], Kind.BESIDE)
        if chunks and self.ordinary.max_running > 1:
            n_left = self._n_beside(chunks)
            for scheduler in self._background:
                self._limit_slots()
                if n_left > 0:
                    n_left -= step.add(scheduler, scheduler.schedule_part(n_left, partial(_worth_adding, n_left)))
        return step

    def _n_beside(self, chunks: list[Chunk]) -> int:
        """Returns how many rows of background work these ordinary chunks may have beside them."""
        ordinary = self.ordinary
        n_rows = sum(chunk.n_rows for chunk in chunks)
        room = ordinary.batch_tokens - n_rows
        if not any(chunk.count > 1 for chunk in chunks):
            if any(chunk.draft for chunk in chunks):
                room = max_rows(ordinary.prompt_lookup) - n_rows
            return min(room, self.policy.rows_beside(n_rows)) if room > 0 else 0
        if not ordinary.mixes or room <= 0:
            return 0
        n_decoding = sum(chunk.count == 1 for chunk in chunks)
        return min(room, self.policy.rows_beside(max(1, n_decoding), ordinary.pace.seconds(n_rows)))

    def _alone(self) -> Step:
        """Returns a step of background work alone that may take as long as an ordinary one."""
        step = Step([], [], Kind.ALONE)
        for scheduler in self._background:
            self._limit_slots()
            if not step.chunks:
                step.add(scheduler, scheduler.schedule())
            elif scheduler.mixes and not any(chunk.draft for chunk in step.chunks):
                room = scheduler.batch_tokens - step.n_tokens
                step.add(scheduler, scheduler.schedule_part(room, partial(_rest, room)))
        return step

    def _short(self, kind: "Kind", seconds: float) -> Step:
        """Returns a step of background work alone that takes about `seconds`."""
        self._n_short += 1
        step = Step([], [], kind, short=True)
        n_decodes = min(self.policy.decodes_within(seconds), self.ordinary.batch_tokens)
        schedulers = self._background if self._n_short % LAST_EVERY else self._background[::-1]
        for scheduler in schedulers:
            self._limit_slots()
            before = step.n_tokens
            step.add(
                scheduler,
                scheduler.schedule_part(
                    n_decodes - before, partial(self._prompt_tokens, seconds, before), scheduler.score_rows
                ),
            )
            if schedulers is not self._background and step.chunks:
                break  # The lower tier could take room from the chunks of the higher one.
            if any(chunk.count > 1 for chunk in step.chunks):
                break
        return step

    def _prompt_tokens(self, seconds: float, n_before: int, n_decoding: int) -> int:
        n_tokens = self.policy.prompt_tokens_within(seconds, n_before + n_decoding)
        return min(n_tokens, self.ordinary.batch_tokens - n_before - n_decoding)

    def _limit_slots(self) -> None:
        """Gives each upper tier the slots that the tiers below leave, at least one."""
        n_running = len(self.ordinary.running)
        for scheduler in self._background:
            scheduler.spared_cells = SPARED_CELLS * len(self.ordinary.running)
            scheduler.max_running = max(1, self.ordinary.max_running - n_running)
            while len(scheduler.running) > scheduler.max_running:
                scheduler.preempt_last()
            n_running += len(scheduler.running)

    # ---- After the step

    def commit(self, step: Step, sampled: list[list[int]]) -> None:
        """Updates the state after a computed step, as `Scheduler.commit` does."""
        if len(step.parts) == 1:
            step.parts[0][0].commit(step.chunks, sampled)
            return
        start = 0
        for scheduler, n in step.parts:
            scheduler.commit(step.chunks[start : start + n], sampled[start : start + n])
            start += n

    def roll_back(self, step: Step) -> None:
        """Drops what the memory has of a step that was interrupted."""
        for chunk in step.chunks:
            self.cache.memory.truncate(chunk.sequence.seq_id, chunk.start)
        self.policy.record_interruption()

    def record(self, step: Step, seconds: float) -> None:
        """Records the duration of a step, from its start until its tokens are delivered."""
        if step.kind is Kind.ORDINARY:
            return
        policy, reads = self.policy, any(chunk.count > 1 for chunk in step.chunks)
        # A prompt that is added to an ordinary step costs at most what as many decoding rows do.
        if not reads or (step.kind is Kind.BESIDE and not step.ordinary_reads):
            policy.row_times.record(step.n_tokens, seconds)
        elif step.short:
            policy.pace.record(step.n_tokens, seconds)
        if step.kind is Kind.BESIDE:
            held_back = step.n_background_chunks < sum(len(s.running) + len(s.waiting) for s in self._background)
            policy.record_beside(seconds, n_added=step.n_background_chunks, held_back=held_back)
        elif step.kind is Kind.SHARE:
            policy.record_share(seconds)
        else:
            policy.record_alone()

    def make_room(self) -> bool:
        """Frees cells after the model found none for a step. Returns False if nothing can be freed."""
        for scheduler in reversed(self._background):
            if self.cache.evict_all(tier=scheduler.tier) or (self.n_running > 1 and scheduler.preempt_last()):
                return True
        return self.ordinary.make_room()

    def _preempt_above(self, tier: int) -> bool:
        """Preempts a sequence of the highest tier above `tier`. Returns False if none runs."""
        return any(scheduler.preempt_last() for scheduler in reversed(self._schedulers[tier + 1 :]))


def _rest(n: int, n_decoding: int) -> int:
    return n - n_decoding


def _worth_adding(n: int, n_decoding: int) -> int:
    """Returns the tokens of prompts that are worth adding to an ordinary step, beside `n_decoding` of its `n` rows."""
    return n - n_decoding if n - n_decoding >= MIN_ADDED_TOKENS else 0
