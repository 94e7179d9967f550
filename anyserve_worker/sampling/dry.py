"""DRY: penalizes tokens that would extend a repeated sequence. Results equal llama.cpp's. PURE.

For each token, llama.cpp compares the end of the text with everything before it. Here a token checks only the places
where it occurred before, and extends the repetitions found for the previous token.
"""

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.sampling.breakers import MAX_TAIL, Breakers
from anyserve_worker.sampling.draw import Logits

Places = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]

MAX_LOG = 88.7228391
"""Logarithm of the greatest single-precision number, as in llama.cpp."""
MAX_PENALTY = 1e30
"""Makes a token impossible, but stays finite when divided by a low temperature."""
N_NARROWED = 32
"""Tokens to compare at all places at once, before the remaining places are checked one by one."""

N_SPARSE = 64
"""Maximum places to look up by binary search. More are looked up in an array of all places."""


class Repetition:
    """Earlier places of a text's last token, and the number of tokens up to each that equal the text's last ones."""

    def __init__(self, places: Places, lengths: Places) -> None:
        """`places`: ascending, without the place of the last token itself."""
        self.places = places
        self.lengths = lengths

    def then(self, places: Places) -> "Repetition":
        """Returns the repetition after one more token, whose earlier places are `places`."""
        if len(places) > N_SPARSE:
            before = np.zeros(int(max(places[-1], self.places[-1] if len(self.places) else 0)) + 2, dtype=np.int64)
            before[self.places + 1] = self.lengths
            return Repetition(places, before[places] + 1)
        lengths = np.ones(len(places), dtype=np.int64)
        if len(self.places) and len(places):
            before = self.places.searchsorted(places - 1)
            before[before == len(self.places)] = 0
            extends = self.places[before] == places - 1
            lengths[extends] += self.lengths[before[extends]]
        return Repetition(places, lengths)

    @classmethod
    def of(cls, tokens: Tokens, longest: int) -> "Repetition":
        """Returns the repetition at the end of a text, with lengths of at most `longest`."""
        if not len(tokens):
            return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        backwards = tokens[::-1]
        n = len(tokens)
        shifts = (backwards[1:] == backwards[0]).nonzero()[0] + 1
        lengths = np.zeros(n, dtype=np.int64)
        left = shifts
        for offset in range(min(N_NARROWED, longest)):
            lengths[left] = offset + 1
            left = left[left + offset + 1 < n]
            if not len(left):
                break
            left = left[backwards[left + offset + 1] == backwards[offset + 1]]
        else:
            if longest > N_NARROWED:
                _lengthen(backwards, left, lengths)
        return cls(n - 1 - shifts[::-1], np.minimum(lengths[shifts[::-1]], longest))


def _lengthen(text: Tokens, shifts: Places, lengths: Places) -> None:
    """Completes `lengths` at these shifts: for how long the text equals itself shifted (the Z algorithm)."""
    known = lengths.tolist()
    start, end = 0, 0
    for shift in shifts.tolist():
        inside = end - shift
        if inside > 0 and known[shift - start] < inside:
            known[shift] = known[shift - start]
            continue
        n = max(inside, 0)
        n += _common(text[n:], text[shift + n :])
        known[shift] = n
        start, end = shift, shift + n
    lengths[:] = known


def _common(left: Tokens, right: Tokens) -> int:
    """Returns the length of the common prefix of two arrays. The second array is the shorter."""
    n, size = 0, 16
    while n < len(right):
        differs = left[n : n + size][: len(right) - n] != right[n : n + size]
        first = int(differs.argmax())
        if differs[first]:
            return n + first
        n += len(differs)
        size *= 4
    return n


class DryPrompt:
    """DRY's state after a prompt, shared by its choices."""

    def __init__(self, prompt: Tokens, last_n: int, breakers: Breakers) -> None:
        """`last_n`: tokens to look back at."""
        self.tokens = prompt[max(0, len(prompt) - last_n) :]
        self.breakers = breakers
        breaker = breakers.last(self.tokens)
        self.head, self.end = breaker or (-1, -1)
        # A repetition ends where a breaker begins.
        self.repetition = Repetition.of(self.tokens, len(self.tokens) - 1 - self.head)
        self.longest: Places = np.zeros(len(breakers.alone), dtype=np.int64)
        """Buffer of `Dry.apply` with a length for each token of the vocabulary. All zero between two calls."""


class Dry:
    """Implements `penalties.Penalty`. Places count from the first token of `prompt.tokens`."""

    def __init__(self, sampling: SamplingParameters, last_n: int, prompt: DryPrompt) -> None:
        self._multiplier = sampling.dry_multiplier
        self._base = sampling.dry_base
        self._allowed_length = sampling.dry_allowed_length
        self._max_exponent = int(MAX_LOG / math.log(self._base)) if self._base > 1.000001 else 0
        self._last_n = last_n
        self._prompt = prompt
        self._repetition = prompt.repetition
        self._output: Tokens = np.zeros(64, dtype=np.int32)
        self._n_output = 0
        self._recent = deque(prompt.tokens[-1 - MAX_TAIL :].tolist(), 1 + MAX_TAIL)
        self._head, self._end = prompt.head, prompt.end

    def accept(self, token: int) -> None:
        n = len(self._prompt.tokens) + self._n_output
        self._repetition = self._repetition.then(self._places_of(token))
        if self._n_output == len(self._output):
            self._output = np.concatenate((self._output, np.zeros_like(self._output)))
        self._output[self._n_output] = token
        self._n_output += 1
        self._recent.append(token)
        self._look_for_breaker(n, token)

    def _places_of(self, token: int) -> Places:
        n_prompt, n = len(self._prompt.tokens), len(self._prompt.tokens) + self._n_output
        first = max(0, n + 1 - self._last_n)
        in_output: Places = (self._output[max(0, first - n_prompt) : self._n_output] == token).nonzero()[0]
        in_output += max(n_prompt, first)
        if first >= n_prompt:
            return in_output
        in_prompt = (self._prompt.tokens[first:] == token).nonzero()[0] + first
        return np.concatenate((in_prompt, in_output)) if len(in_output) else in_prompt

    def _look_for_breaker(self, place: int, token: int) -> None:
        """Updates the last breaker if one ends at this place and begins after the current one."""
        breakers = self._prompt.breakers
        if breakers.alone[token]:
            self._head = self._end = place
        elif breakers.lengths:
            recent = tuple(self._recent)
            for length in breakers.lengths:
                if place - length < max(self._head, 0) or length >= len(recent):
                    break
                if breakers.are(recent[-1 - length], recent[-length:]):
                    self._head, self._end = place - length, place
                    break

    def apply(self, logits: Logits) -> None:
        n = len(self._prompt.tokens) + self._n_output
        first = max(0, n - self._last_n)
        n_visible = n - first
        limit = n - 1 - self._end if self._head >= first else n_visible
        if n_visible <= self._allowed_length or limit < self._allowed_length:
            return
        places, lengths = self._repetition.places, self._repetition.lengths
        lengths = np.minimum(np.minimum(lengths, places - first + 1), limit)
        repeated = lengths >= max(self._allowed_length, 1)
        places, lengths = places[repeated], lengths[repeated]
        tokens = self._tokens_at(places + 1)
        if self._allowed_length == 0:
            # Every token then follows a repetition, if only one of length 0.
            tokens = np.concatenate((self._tokens_at(np.arange(first + 1, n)), tokens))
            lengths = np.concatenate((np.zeros(len(tokens) - len(lengths), dtype=np.int64), lengths))
        if len(tokens):
            self._penalize(logits, tokens, lengths)

    def _tokens_at(self, places: Places) -> Places:
        """Returns the tokens at these ascending places."""
        n_prompt = len(self._prompt.tokens)
        n_in_prompt = int(places.searchsorted(n_prompt))
        in_prompt = self._prompt.tokens[places[:n_in_prompt]]
        return np.concatenate((in_prompt, self._output[places[n_in_prompt:] - n_prompt])).astype(np.int64)

    def _penalize(self, logits: Logits, tokens: Places, lengths: Places) -> None:
        """Penalizes the tokens, each for the longest of its lengths."""
        longest = self._prompt.longest
        np.maximum.at(longest, tokens, lengths)
        # A token may remain several times, always with the same length.
        left = (lengths == longest[tokens]) & ~self._prompt.breakers.alone[tokens]
        longest[tokens] = 0
        tokens, lengths = tokens[left], lengths[left]
        exponents = lengths - self._allowed_length
        if self._max_exponent:
            exponents = np.minimum(exponents, self._max_exponent)
        penalties = self._multiplier * np.float64(self._base) ** exponents
        logits[tokens] -= np.minimum(penalties, MAX_PENALTY).astype(np.float32)
