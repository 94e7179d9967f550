"""Returns log probabilities of a choice's tokens together with the text that they belong to. PURE.

A token is returned once text after its start is. So a token that ends inside a character waits for the other tokens of
that character, and tokens of a stop string are never returned.
"""

from collections import deque

from anyserve_worker.core.logprob import TokenLogprob


class LogprobOutput:
    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        """(start of the token in the text, in characters; the token)."""
        self._n_out = 0

    def push(self, logprob: TokenLogprob, n_held: int) -> None:
        """Adds a sampled token. `n_held`: characters that the output holds back."""
        self._waiting.append((self._n_out + n_held, logprob))

    def pop(self, n_characters: int, *, all: bool) -> tuple[TokenLogprob, ...]:
        """Returns the tokens of the next `n_characters` of text; with `all`, at the end of a choice, all tokens."""
        self._n_out += n_characters
        out = []
        while self._waiting and (all or self._waiting[0][0] < self._n_out):
            out.append(self._waiting.popleft()[1])
        return tuple(out)
