"""Log probabilities in the forms of foreign backends. PURE."""

from typing import Any

import orjson

from openai_server.core.errors import BackendError
from openai_server.core.logprobs import TokenLogprob


def vllm_logprobs(text: bytes, n_top: int) -> list[TokenLogprob]:
    """Reads vLLM's form: for each new token, an object from the ids of the sampled token, which comes first, and of the
    likeliest ones to `logprob`, `rank` and `decoded_token`. `null` is none. `n_top`: number of likeliest tokens to
    return. Raises BackendError."""
    try:
        positions = orjson.loads(text) if text else None
        return [_position(list(position.values()), n_top) for position in positions or () if position]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError("UNKNOWN", "The model backend sent malformed log probabilities.") from error


def _position(entries: list[dict[str, Any]], n_top: int) -> TokenLogprob:
    sampled = entries[0]  # also listed if it is not among the likeliest ones
    ranked = sorted(entries, key=lambda entry: entry["rank"])
    top = [(_token(entry), float(entry["logprob"])) for entry in ranked[:n_top]]
    return TokenLogprob(_token(sampled), float(sampled["logprob"]), top)


def _token(entry: dict[str, Any]) -> bytes:
    return str(entry["decoded_token"]).encode()
