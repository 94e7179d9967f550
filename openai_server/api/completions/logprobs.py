"""Log probabilities in the form of completions: a token that ends inside a character is `bytes:\\xe2\\x80`. PURE."""

import codecs

from openai_server.api.completions.answer import CompletionLogprobs
from openai_server.api.logprobs import finite
from openai_server.core.logprobs import Logprobs, TokenLogprob

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class LogprobsWriter:
    """Log probabilities of a choice, part by part. `text_offset`, in characters, continues from the previous part."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = _utf8_decoder(errors="replace")

    def part(self, logprobs: Logprobs) -> CompletionLogprobs:
        offsets = []
        for token in logprobs:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.token))
        return CompletionLogprobs(
            offsets,
            [None if token.logprob is None else finite(token.logprob) for token in logprobs],
            [_written(token.token) for token in logprobs],
            [None if token.logprob is None else _top(token, token.logprob) for token in logprobs],
        )


def _top(token: TokenLogprob, logprob: float) -> dict[str, float]:
    """The likeliest tokens, and the sampled token even if it is not among them."""
    top = {_written(text): finite(value) for text, value in token.top}
    top.setdefault(_written(token.token), finite(logprob))
    return top


def _written(token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
