"""Prompt lookup: drafts the next tokens from an earlier occurrence of the last ones. PURE.

Answers repeat passages of the prompt, names, code or themselves. If the last tokens of a sequence occurred earlier in
it, the tokens that followed there are the draft. A step computes the draft after the last token and keeps the part that
the sequence's own sampler draws as well: the answer is the same, in fewer steps. (As in any batch of another size, the
last bits of a logit may differ.)

A rejected draft is wasted work. So a sequence pauses after one, twice as long each time, and a text without repetition
costs almost nothing.
"""

from array import array
from dataclasses import dataclass, field

NGRAM = 3
"""Number of last tokens to search for. In a simulation, a fallback to two gained nothing in texts that repeat, and cost
2.5 times as much in others."""
MIN_ACCEPTED_SHARE = 0.25
"""Minimum share of a draft's tokens to accept, or the sequence pauses. Measured with SmolLM2-135M on two cores: a step
with one row and four of a draft takes 1.7 to 1.9 times as long as a step with one row."""
MAX_PAUSE = 63
"""Maximum steps of a pause. Each pause is twice the one before plus one."""
MAX_INDEXED = 512
"""Maximum tokens to index in one step, since indexing a long prompt would delay it."""
MAX_ROWS = 8
"""Maximum rows of a step with drafts, unless the longest draft needs more. Measured as above, such a step takes 2.0 to
2.5 times as long as a step with one row."""


def max_rows(max_draft: int) -> int:
    """Returns the maximum rows of a step with drafts of at most `max_draft` tokens. All of them have logits."""
    return max(MAX_ROWS, 1 + max_draft)


@dataclass(slots=True)
class PromptLookup:
    """The index of one sequence, whose tokens only grow."""

    _following: dict[bytes, int] = field(default_factory=dict)
    """By n-gram: position of the token that followed its last occurrence."""
    _n_indexed: int = NGRAM
    """Tokens whose n-grams are in the index."""
    _pause: int = 0
    """Steps of the last pause; 0 after a draft that paid."""
    _steps_to_wait: int = 0

    def draft(self, tokens: "array[int]", max_draft: int) -> tuple[int, ...]:
        """Returns at most `max_draft` tokens that may come next. Call `record` if they are computed."""
        self._index(tokens)
        if self._steps_to_wait:
            self._steps_to_wait -= 1
            return ()
        if self._pause:
            max_draft = 1  # After a rejected draft, a small one tests whether drafts pay again.
        position = self._following.get(tokens[-NGRAM:].tobytes())
        return () if position is None else tuple(tokens[position : position + max_draft])

    def record(self, drafted: int, accepted: int) -> None:
        self._pause = 0 if accepted >= MIN_ACCEPTED_SHARE * drafted else min(2 * self._pause + 1, MAX_PAUSE)
        self._steps_to_wait = self._pause

    def _index(self, tokens: "array[int]") -> None:
        end = min(len(tokens), self._n_indexed + MAX_INDEXED)
        for position in range(self._n_indexed, end):
            self._following[tokens[position - NGRAM : position].tobytes()] = position
        self._n_indexed = max(end, NGRAM)
