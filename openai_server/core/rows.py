"""What a streamed answer consists of as it arrives: a row for each piece of a choice. PURE."""

import codecs

from openai_server.core.logprobs import Logprobs

Row = tuple[int, bytes, str | None, Logprobs]
"""Number of the choice, what was added to it, its finish reason if that is its end, and the added tokens' log
probabilities."""

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class ChoiceDecoders:
    """The bytes of `n` choices to text."""

    __slots__ = ("_decoders",)

    def __init__(self, n: int) -> None:
        self._decoders: list[codecs.IncrementalDecoder | None] = [None] * n

    def text(self, index: int, token: bytes, ends: bool) -> str:
        """By what the choice grows; `ends`: nothing comes behind it."""
        decoder = self._decoders[index]
        if decoder is None:
            try:
                return token.decode()
            except UnicodeDecodeError:
                # The contract promises whole characters, but not every backend has read it.
                decoder = self._decoders[index] = _utf8_decoder(errors="replace")
        return decoder.decode(token, final=ends)
