"""The part of a step that belongs to one sequence. PURE."""

from array import array
from dataclasses import dataclass

from anyserve_worker.scheduling.sequence import Sequence


@dataclass(slots=True)  # Not frozen: frozen ones take three times as long to create, once per token.
class Chunk:
    """A step computes `sequence.tokens[start : start + count]`, and then a draft of the next tokens."""

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()
    """Empty unless the chunk samples."""

    @property
    def n_rows(self) -> int:
        return self.count + len(self.draft)

    @property
    def tokens(self) -> "array[int]":
        """The token of each row."""
        tokens = self.sequence.tokens[self.start : self.start + self.count]
        tokens.extend(self.draft)
        return tokens

    @property
    def scores(self) -> bool:
        """Whether the step computes log probabilities of the prompt's tokens that the request wants."""
        return self.sequence.wants_scores

    @property
    def n_logits(self) -> int:
        """Number of rows, from the last, that need logits."""
        if self.scores:
            return self.n_rows
        return 1 + len(self.draft) if self.samples else 0

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches the end of the sequence.

        The logits of its last token then give the next token, and those of each draft token one more, while the draft
        is right.
        """
        return self.start + self.count == len(self.sequence.tokens)
