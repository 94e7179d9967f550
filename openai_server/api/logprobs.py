"""Log probabilities as OpenAI's two APIs write them.

PURE. A token may end inside a character: chat tells its bytes beside the text, completions write `bytes:\\xe2\\x80`.
"""

import codecs
import math
from typing import Any

from openai_server.core.logprobs import Logprobs, TokenLogprob

LEAST = -9999.0
"""What OpenAI writes for a token that is as good as impossible; JSON has no infinity."""

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


def chat(logprobs: Logprobs) -> dict[str, Any]:
    return {"content": [_chat_token(token) for token in logprobs], "refusal": None}


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    return {
        **_chat_entry(token.token, LEAST if token.logprob is None else token.logprob),
        "top_logprobs": [_chat_entry(text, logprob) for text, logprob in token.top],
    }


def _chat_entry(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode(errors="replace"), "logprob": _finite(logprob), "bytes": list(token)}


class CompletionLogprobs:
    """Of one choice, part by part: `text_offset`, in characters, goes on where the last part ended."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = _utf8_decoder(errors="replace")

    def part(self, logprobs: Logprobs) -> dict[str, Any]:
        offsets = []
        for token in logprobs:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.token))
        return {
            "text_offset": offsets,
            "token_logprobs": [None if t.logprob is None else _finite(t.logprob) for t in logprobs],
            "tokens": [_written(token.token) for token in logprobs],
            "top_logprobs": [None if token.logprob is None else _top(token, token.logprob) for token in logprobs],
        }


def _top(token: TokenLogprob, logprob: float) -> dict[str, float]:
    """The sampled token is among them, also where it is not one of the likeliest."""
    top = {_written(text): _finite(value) for text, value in token.top}
    top.setdefault(_written(token.token), _finite(logprob))
    return top


def _written(token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(logprob: float) -> float:
    return max(logprob, LEAST) if not math.isnan(logprob) else LEAST
