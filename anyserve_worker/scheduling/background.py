"""Decides how much background work a step may have. PURE: times are passed in.

Background work is for requests that are in no hurry, such as the lines of a batch. It must not slow down the other
requests, the ordinary ones:

- While these are computed, a step takes rows of background work only as long as its predicted time grows by at most
  MAX_GROWTH (`RowTimes`). Now and then a step goes without, so that the time of ordinary rows alone stays known.
- Without them, steps have background work alone. Where a step can be interrupted, it is as soon as an ordinary request
  arrives, and what it computed is lost. So the steps after an interruption are short, and become longer as long as none
  is interrupted. Where a step can't be interrupted, it is short for RECENT_SECONDS after ordinary work.
- Background work that is held back gets `share` of the engine's time nevertheless, in short steps that nothing
  interrupts. So a batch makes progress under any load, and an ordinary request waits for one short step at most.

A short step takes SHORT_STEP_SECONDS, or as long as one row if that takes longer.
"""

import math
from dataclasses import dataclass, field

from anyserve_worker.scheduling.row_times import RowTimes
from anyserve_worker.scheduling.step_pace import STEP_SECONDS, StepPace

MAX_GROWTH = 0.05
"""Share by which background rows may prolong an ordinary step."""
SHORT_STEP_SECONDS = 0.02
"""Target for a step that an ordinary request may have to wait for."""
MIN_PROMPT_TOKENS = 8
"""Tokens of a prompt that any short step may have. Fewer cost as much, since a step reads all weights once."""
MIN_ADDED_TOKENS = 16
"""Minimum tokens of a prompt to add to an ordinary step. The overhead of fewer isn't worth it."""
RECENT_SECONDS = 5.0
"""Seconds after ordinary work in which more of it is expected."""
CHECK_STEPS = 16
"""One in this many ordinary steps goes without background rows, to measure the others."""
MAX_CREDIT_SECONDS = 2 * SHORT_STEP_SECONDS
"""Engine time that held-back work can save up. More would make ordinary requests wait for several steps in a row."""


@dataclass(slots=True)
class BackgroundPolicy:
    share: float = 0.05
    """Minimum share of the engine's time for background work that is held back; 0: none."""
    interruptible: bool = False
    """Whether a step of background work alone can be interrupted."""
    row_times: RowTimes = field(default_factory=RowTimes)
    pace: StepPace = field(default_factory=StepPace)
    """The pace of short steps with prompts. Longer ones take less time per token."""
    last_ordinary: float = field(init=False, default=-math.inf)
    """Time at which there was ordinary work."""
    _credit: float = field(init=False, default=0.0)
    """Seconds of engine time that held-back work may take; negative after a step that took longer than it may."""
    _alone_seconds: float = field(init=False, default=STEP_SECONDS)
    """Target for the next step of background work alone, if it can be interrupted."""
    _n_added: int = field(init=False, default=0)
    """Ordinary steps with background rows since the last one without."""

    # ---- Decisions before a step

    @property
    def share_is_due(self) -> bool:
        """Whether held-back work may take a short step now, although there is ordinary work."""
        return self._credit >= SHORT_STEP_SECONDS

    def rows_beside(self, n_rows: int, seconds: float | None = None) -> int:
        """Returns how many background rows an ordinary step of `n_rows` decoding rows may have.

        `seconds`: the predicted time of the step, if it has prompts as well.
        """
        if not self.row_times.knows(n_rows):
            return 0
        if self._n_added >= CHECK_STEPS - 1:
            self._n_added = 0
            return 0
        alone = self.row_times.seconds(n_rows)
        allowed = MAX_GROWTH * (alone if seconds is None else seconds)
        n_max = self.row_times.max_rows(alone + allowed)
        if not self.row_times.knows(n_max):  # Every step so far was short enough: measure a longer one.
            n_max += MIN_ADDED_TOKENS
        return max(0, n_max - n_rows)

    def seconds_alone(self, now: float) -> float | None:
        """Returns the target for a step of background work alone, in seconds. None: as for ordinary work."""
        if self.interruptible:
            return self._alone_seconds if self._alone_seconds < STEP_SECONDS else None
        return self.batch_seconds(now)

    def batch_seconds(self, now: float) -> float | None:
        """Returns the target for a batch of background embeddings, which can't be interrupted. None: as for others."""
        return SHORT_STEP_SECONDS if now < self.last_ordinary + RECENT_SECONDS else None

    def decodes_within(self, seconds: float) -> int:
        """Returns how many decoding sequences a step of `seconds` may have, at least 1."""
        return max(1, self.row_times.max_rows(seconds))

    def prompt_tokens_within(self, seconds: float, n_decoding: int) -> int:
        """Returns how many tokens of prompts a step of `seconds` may have beside `n_decoding` sequences.

        If none decodes, it is at least MIN_PROMPT_TOKENS.
        """
        if not n_decoding:
            return max(MIN_PROMPT_TOKENS, self.pace.tokens_within(seconds))
        n_tokens = self.pace.tokens_within(seconds - self.row_times.seconds(n_decoding))
        return n_tokens if n_tokens >= MIN_PROMPT_TOKENS else 0

    # ---- Records after a step

    def record_beside(self, seconds: float, *, n_added: int, held_back: bool) -> None:
        """Records an ordinary step while there is background work. `n_added`: its background rows."""
        self._n_added += n_added > 0
        if held_back:
            self._earn(seconds)

    def record_share(self, seconds: float) -> None:
        """Records a step of held-back work."""
        self._earn(seconds)
        self._credit -= seconds

    def record_alone(self) -> None:
        """Records a step of background work alone, without ordinary work."""
        self._alone_seconds = min(2 * self._alone_seconds, STEP_SECONDS)

    def record_interruption(self) -> None:
        self._alone_seconds = SHORT_STEP_SECONDS

    def _earn(self, seconds: float) -> None:
        self._credit = min(self._credit + self.share * seconds, MAX_CREDIT_SECONDS)
