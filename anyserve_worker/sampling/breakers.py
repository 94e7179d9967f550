"""Sequence breakers of DRY: which tokens, or which tokens in a row, write one of some strings. PURE.

The same as in llama.cpp, which looks at every token of the vocabulary for each string and each of its beginnings.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from anyserve_worker.sampling.draw import TokenIds

MAX_BREAKER_BYTES = 40
"""A breaker has at most so many bytes; llama.cpp would cut off what is longer."""
MAX_TAIL = 20
"""Tokens behind the first one of a breaker: what would be longer is cut off, as in llama.cpp."""


class Words:
    """The texts of a vocabulary's tokens, to look for strings in."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._words = words
        # A string that has no zero byte is found within one word only.
        self._bytes = np.frombuffer(b"\0".join(words) + bytes(MAX_BREAKER_BYTES), dtype=np.uint8)
        self._starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, token: int) -> bytes:
        return self._words[token]

    def containing(self, text: bytes) -> TokenIds:
        """The tokens in which this string of at most MAX_BREAKER_BYTES bytes stands; it has no zero byte."""
        at = (self._bytes == text[0]).nonzero()[0]
        for offset, byte in enumerate(text[1:], 1):
            at = at[self._bytes[at + offset] == byte]
        return np.unique(self._starts.searchsorted(at, side="right") - 1)


class Breakers:
    """What ends a repeated sequence: a token in which a string stands, or a head and a tail that write it together."""

    def __init__(self, words: Words, texts: Sequence[str], tokenize: Callable[[bytes], Sequence[int]]) -> None:
        """`tokenize` gives the tokens of the rest of a string whose beginning is the end of a token."""
        self._words = words
        self.alone: npt.NDArray[np.bool_] = np.zeros(len(words), dtype=np.bool_)
        """Which tokens are one."""
        self._tails: dict[tuple[int, ...], list[tuple[bytes, bytes]]] = {}
        """By tail: with which bytes its head ends, and the whole string, which its head does not contain."""
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
        """Whether these tokens in a row are one."""
        word = self._words[head]
        return any(word.endswith(end) and text not in word for end, text in self._tails.get(tail, ()))

    def last(self, tokens: npt.NDArray[np.int32]) -> tuple[int, int] | None:
        """Where the last one begins and ends; of those that begin there the longest. None if there is none."""
        alone = self.alone[tokens].nonzero()[0]
        found = (int(alone[-1]), int(alone[-1])) if len(alone) else None
        if not self.lengths:
            return found
        after = found[0] if found else 0
        heads = np.isin(tokens[after + 1 :], self._firsts).nonzero()[0] + after
        for head in heads[::-1].tolist():
            for length in reversed(self.lengths):
                end = head + length
                if end < len(tokens) and self.are(int(tokens[head]), tuple(tokens[head + 1 : end + 1].tolist())):
                    return head, end
        return found
