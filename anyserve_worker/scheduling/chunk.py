"""What a step computes of one sequence. PURE."""

from array import array
from dataclasses import dataclass

from anyserve_worker.scheduling.sequence import Sequence


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
