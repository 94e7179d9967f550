"""Ends the marked span of a choice, such as its reasoning, after a number of tokens. PURE.

Beyond the limit, the next tokens are those of the end mark. They are part of the choice like sampled ones, which follow
them. A span that the model ends itself is left alone.
"""

import codecs
from collections.abc import Callable, Sequence

from anyserve_worker.text.reasoning_counter import ReasoningCounter

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class ReasoningLimit:
    """The limit of one choice. Each of its tokens must be pushed, whether sampled or forced."""

    def __init__(self, max_tokens: int, mark: Sequence[int], ends: Sequence[str], begin: str = "") -> None:
        """`max_tokens`: tokens after the begin mark. `mark`: the tokens of the end mark to write. `ends` and `begin`
        are those of ReasoningCounter."""
        self._n_left = max_tokens
        self._mark = list(mark)
        self._span = ReasoningCounter(ends, begin)
        self._decoder = _utf8_decoder(errors="replace")
        self._last: list[int] = []
        """The last tokens of the span: as many as an incomplete end mark may have."""
        self._forced: list[int] = []
        """Tokens that must come next."""
        self._has_ended = False
        """Whether the end mark was written because of the limit."""

    def forced(self, accepts: Callable[[Sequence[int]], bool]) -> int | None:
        """Returns the token that must come next; None if it may be any.

        `accepts` returns whether these tokens may come next. If they may not, the end mark waits for the next token. It
        also waits for the end of a character, for three tokens at most.
        """
        if not self._forced and self._is_due:
            rest = self._mark[self._n_written :]
            if accepts(rest):
                self._forced, self._has_ended = rest, True
        return self._forced[0] if self._forced else None

    def push(self, token: int, piece: bytes) -> None:
        """Adds the next token of the choice, with its bytes as a prompt has them."""
        del self._forced[:1]
        if self._has_ended or not self._span.may_be_open:
            return
        was_open = self._span.is_open
        self._span.push(piece, 1)
        if was_open:
            self._n_left -= 1
            self._decoder.decode(piece)
            self._last = [*self._last, token][1 - len(self._mark) :] if len(self._mark) > 1 else []

    @property
    def _is_due(self) -> bool:
        is_whole_text = not self._decoder.getstate()[0]
        return self._n_left <= 0 and not self._has_ended and self._span.is_open and is_whole_text

    @property
    def _n_written(self) -> int:
        """Tokens of the end mark that the model has just written."""
        for n in range(len(self._last), 0, -1):
            if self._last[-n:] == self._mark[:n]:
                return n
        return 0
