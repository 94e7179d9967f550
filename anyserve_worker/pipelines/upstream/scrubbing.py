"""Removes secrets from texts of an upstream before a client or a log gets them. PURE."""

import re
from collections.abc import Iterable

MAX_LENGTH = 400
"""Characters of a text of an upstream."""

_MAX_READ = 8192
"""Characters of a text that are looked at, without the secrets."""
_HIDDEN = "[hidden]"
_PARTIAL = 8
"""Characters from the start of a secret that are hidden as well: upstreams repeat a key in part."""
_PATTERNS = (
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?<![a-z])(?:bearer|basic)\s+[^\s\"',;]+"),
    re.compile(
        r"(?i)((?:authorization|api[-_ ]?key|access[-_ ]?token|x-goog-api-key)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&]+"
    ),
    re.compile(r"(?i)([?&](?:key|api[-_]?key|token|access_token|sig|signature)=)[^\s&\"']+"),
    re.compile(r"\b(?:sk|pk|rk|gsk|hf|xai|nvapi|pplx|r8|key)[-_][\w*.…-]{6,}"),
    re.compile(r"\bAIza[\w-]{10,}"),
)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """A single line of at most MAX_LENGTH characters, without the secrets and without what looks like a secret."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
        if len(secret) >= 2 * _PARTIAL:
            text = re.sub(re.escape(secret[:_PARTIAL]) + r"[\w*.…-]*", _HIDDEN, text)
    text = text[:_MAX_READ]
    for pattern in _PATTERNS:
        text = pattern.sub(lambda match: ((match.lastindex and match[1]) or "") + _HIDDEN, text)
    text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"
