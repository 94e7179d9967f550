"""The rows of a streamed answer: one for each piece of a choice, as the backend sends them. PURE."""

import codecs

from openai_server.core.logprobs import Logprobs

Row = tuple[int, bytes, str | None, Logprobs]
"""Number of the choice, the UTF-8 text added to it, its finish reason (None: it continues), and the log probabilities
of the added tokens."""

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class ChoiceDecoders:
    """Decodes the bytes of `n` choices to text."""

    __slots__ = ("_decoders",)

    def __init__(self, n: int) -> None:
        self._decoders: list[codecs.IncrementalDecoder | None] = [None] * n

    def text(self, index: int, token: bytes, ends: bool) -> str:
        """The text to add to the choice. `ends`: whether this is the choice's last piece."""
        decoder = self._decoders[index]
        if decoder is None:
            try:
                return token.decode()
            except UnicodeDecodeError:
                # The contract requires whole characters, but not all backends comply.
                decoder = self._decoders[index] = _utf8_decoder(errors="replace")
        return decoder.decode(token, final=ends)
