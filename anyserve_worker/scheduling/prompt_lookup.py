"""Prompt lookup: drafts of the next tokens, from where the last ones occurred before. PURE.

Answers repeat: a passage of the prompt, a name, code, themselves. Where the last tokens of a sequence occurred earlier
in it, those that followed there are the draft of those that are next. A step computes it behind the last token, and as
much of it stays as the sequence's own sampler draws: the answer is the same, in fewer steps. (As in any batch of
another size, the last bits of a logit may differ.)

A rejected draft is work for nothing. Hence a sequence pauses after one, twice as long each time, so that a text without
repetition costs next to nothing.
"""

from array import array
from dataclasses import dataclass, field

NGRAM = 3
"""How many of the last tokens are looked for. Two, where three are not found, were simulated: nothing gained in texts
that repeat, and two and a half times as much lost in others."""
MIN_ACCEPTED_SHARE = 0.25
"""Share of a draft's tokens that has to be accepted for it to pay. Measured with SmolLM2-135M on two cores: a step of
one row and four of a draft takes 1.7 to 1.9 times as long as one of a row alone."""
MAX_PAUSE = 63
"""Steps without a draft after one that did not pay: twice as many and one each time, up to this."""
MAX_INDEXED = 512
"""Tokens that are indexed at once, since a long prompt would hold up a step."""
MAX_ROWS = 8
"""Rows of a step with drafts, if the longest draft doesn't need more. Measured as above, such a step takes 2.0 to 2.5
times as long as one of a row."""


def max_rows(max_draft: int) -> int:
    """Most rows of a step with drafts of at most `max_draft` tokens. All of them have logits."""
    return max(MAX_ROWS, 1 + max_draft)


@dataclass(slots=True)
class PromptLookup:
    """The index of one sequence, whose tokens only grow."""

    _following: dict[bytes, int] = field(default_factory=dict)
    """Position of the token that followed an n-gram when it occurred last."""
    _n_indexed: int = NGRAM
    """Tokens up to which positions are in the index."""
    _pause: int = 0
    _steps_to_wait: int = 0

    def draft(self, tokens: "array[int]", max_draft: int) -> tuple[int, ...]:
        """At most `max_draft` tokens that may come next. To be followed by `record`, if they are computed."""
        self._index(tokens)
        if self._steps_to_wait:
            self._steps_to_wait -= 1
            return ()
        if self._pause:
            max_draft = 1  # The last draft did not pay: a small one shows whether things have changed.
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
