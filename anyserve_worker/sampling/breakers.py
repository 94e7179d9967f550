"""Sequence breakers of DRY: finds the tokens, and the sequences of tokens, that contain one of some strings. PURE.

The results equal llama.cpp's, which checks every token of the vocabulary for each string and each of its prefixes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from anyserve_worker.sampling.draw import TokenIds

MAX_BREAKER_BYTES = 40
"""Maximum bytes of a breaker; llama.cpp would truncate a longer one."""
MAX_TAIL = 20
"""Maximum tokens of a breaker after its first; a longer one is truncated, as in llama.cpp."""


class Words:
    """A searchable index of the texts of a vocabulary's tokens."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._words = words
        # A string without a zero byte never matches across two words.
        self._bytes = np.frombuffer(b"\0".join(words) + bytes(MAX_BREAKER_BYTES), dtype=np.uint8)
        self._starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, token: int) -> bytes:
        return self._words[token]

    def containing(self, text: bytes) -> TokenIds:
        """Returns the tokens that contain the string, which has at most MAX_BREAKER_BYTES bytes and no zero byte."""
        at = (self._bytes == text[0]).nonzero()[0]
        for offset, byte in enumerate(text[1:], 1):
            at = at[self._bytes[at + offset] == byte]
        return np.unique(self._starts.searchsorted(at, side="right") - 1)


class Breakers:
    """Ends of a repeated sequence: a token that contains a string, or a head and a tail that spell it together."""

    def __init__(self, words: Words, texts: Sequence[str], tokenize: Callable[[bytes], Sequence[int]]) -> None:
        """`tokenize` returns the tokens of the rest of a string whose prefix is the end of a token."""
        self._words = words
        self.alone: npt.NDArray[np.bool_] = np.zeros(len(words), dtype=np.bool_)
        """By token: whether it is a breaker by itself."""
        self._tails: dict[tuple[int, ...], list[tuple[bytes, bytes]]] = {}
        """By tail: (bytes at the end of its head, whole string), where the head doesn't contain the string."""
        for text in map(str.encode, texts):
            self.alone[words.containing(text)] = True
            for n in range(1, len(text)):
                tail = tuple(tokenize(text[n:])[:MAX_TAIL])
                self._tails.setdefault(tail, []).append((text[:n], text))
        for head_end, text in self._tails.pop((), ()):
            self.alone[[t for t in range(len(words)) if words[t].endswith(head_end) and text not in words[t]]] = True
        self.lengths = sorted({len(tail) for tail in self._tails})
        """Lengths of the tails, in tokens, ascending."""
        self._firsts = np.array(sorted({tail[0] for tail in self._tails}), dtype=np.int32)

    def are(self, head: int, tail: tuple[int, ...]) -> bool:
        """Returns whether these consecutive tokens are a breaker."""
        word = self._words[head]
        return any(word.endswith(end) and text not in word for end, text in self._tails.get(tail, ()))

    def last(self, tokens: npt.NDArray[np.int32]) -> tuple[int, int] | None:
        """Returns the first and last place of the last breaker, the longest that begins there; None without any."""
        alone = self.alone[tokens].nonzero()[0]
        breaker = (int(alone[-1]), int(alone[-1])) if len(alone) else None
        if not self.lengths:
            return breaker
        after = breaker[0] if breaker else 0
        heads = np.isin(tokens[after + 1 :], self._firsts).nonzero()[0] + after
        for head in heads[::-1].tolist():
            for length in reversed(self.lengths):
                end = head + length
                if end < len(tokens) and self.are(int(tokens[head]), tuple(tokens[head + 1 : end + 1].tolist())):
                    return head, end
        return breaker
