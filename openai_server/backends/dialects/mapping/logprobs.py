"""Log probabilities in the forms of foreign backends. PURE."""

import json
import math
from typing import Any

import orjson

from openai_server.core.errors import BackendError
from openai_server.core.logprobs import TokenLogprob


def vllm_logprobs(text: bytes, n_top: int) -> list[TokenLogprob]:
    """Reads vLLM's form: for each new token, an object from the ids of the sampled token, which comes first, and of the
    likeliest ones to `logprob`, `rank` and `decoded_token`. `null` is none. `n_top`: number of likeliest tokens to
    return. Raises BackendError."""
    try:
        positions = _parsed(text) if text else None
        return [_position(list(position.values()), n_top) for position in positions or () if position]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError("UNKNOWN", "The model backend sent malformed log probabilities.") from error


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)  # it takes NaN and -Infinity, which Python's json.dumps writes


def _position(entries: list[dict[str, Any]], n_top: int) -> TokenLogprob:
    sampled = entries[0]  # also listed if it is not among the likeliest ones
    ranked = sorted(entries, key=lambda entry: entry["rank"])
    top = [(_token(entry), _logprob(entry)) for entry in ranked[:n_top]]
    return TokenLogprob(_token(sampled), _logprob(sampled), top)


def _token(entry: dict[str, Any]) -> bytes:
    token = entry["decoded_token"]
    return b"" if token is None else str(token).encode(errors="replace")


def _logprob(entry: dict[str, Any]) -> float:
    logprob = float(entry["logprob"])
    return logprob if math.isfinite(logprob) else MIN_LOGPROB


MIN_LOGPROB = -9999.0
"""OpenAI's value for a token that is almost impossible."""
