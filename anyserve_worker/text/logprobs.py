"""Log probabilities of one choice's tokens, handed out with the text that they belong to. PURE.

A token is handed out once text behind its beginning is: so a token that ends inside a character waits for the others of
that character, and tokens of a stop string are never seen.
"""

from collections import deque

from anyserve_worker.core.logprob import TokenLogprob


class LogprobOutput:
    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        """(where in the text the token begins, in characters; the token)."""
        self._n_out = 0

    def push(self, logprob: TokenLogprob, n_held: int) -> None:
        """A token was sampled, while the output held back `n_held` characters."""
        self._waiting.append((self._n_out + n_held, logprob))

    def pop(self, n_characters: int, *, all: bool) -> tuple[TokenLogprob, ...]:
        """So many characters of text go out now; `all`: so do all tokens, at the end of a choice."""
        self._n_out += n_characters
        out = []
        while self._waiting and (all or self._waiting[0][0] < self._n_out):
            out.append(self._waiting.popleft()[1])
        return tuple(out)
