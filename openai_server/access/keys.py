"""API keys: which there are, and whose the one in a request is.

PURE. Keys are kept as digests alone. What is said of a bad key or a bad line never holds any of its text.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from openai_server.errors import Unauthorized

Header = tuple[bytes, bytes]

_LABEL_LENGTH = 32
"""Characters: of a key without a name, half of its digest."""


class Caller(NamedTuple):
    """Whom the limits are for."""

    id: str
    name: str
    """For logs."""

    @property
    def label(self) -> str:
        """For backends: stands for the caller without giving its key away. Empty for ANYBODY."""
        return self.id[:_LABEL_LENGTH]


ANYBODY = Caller("", "")
"""Where there are no keys, all callers are one."""


class BadKeys(ValueError):
    """Says where, not what."""


class Keys:
    """None at all lets everybody in."""

    def __init__(self, callers: Iterable[tuple[bytes, Caller]] = ()) -> None:
        self._callers = dict(callers)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def __len__(self) -> int:
        return len(self._callers)

    def __or__(self, other: "Keys") -> "Keys":
        return Keys((self._callers | other._callers).items())

    def caller(self, headers: Iterable[Header]) -> Caller:
        """Who sends these headers. Raises Unauthorized."""
        if not self._callers:
            return ANYBODY
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            raise Unauthorized("No API key was given: send it as 'Authorization: Bearer KEY'.")
        if len(given) > 1:
            raise Unauthorized("There is more than one Authorization header.")
        scheme, _, key = given[0].partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized("The Authorization header is not of the form 'Bearer KEY'.")
        key = key.strip()
        if not key:
            raise Unauthorized("The Authorization header holds no API key.")
        digest = _digest(key)
        found: Caller | None = None
        for known, caller in self._callers.items():  # all of them: how long this takes says nothing
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthorized("The API key is not one of this server's.")
        return found


def keys_from_options(given: Sequence[str]) -> Keys:
    """Raises BadKeys."""
    return Keys(_entry(key, f"key {i}") for i, key in enumerate(given, 1))


def keys_from_file(text: str) -> Keys:
    """One key a line, or `name: key`; keys of one name share its limits. Raises BadKeys."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        words = line.split()
        if len(words) == 1:
            entries.append(_entry(words[0], f"line {number}"))
        elif len(words) == 2 and len(words[0]) > 1 and words[0].endswith(":"):
            entries.append(_entry(words[1], f"line {number}", words[0][:-1]))
        else:
            raise BadKeys(f"line {number} is neither a key nor of the form 'name: key'")
    if not entries:
        raise BadKeys("there is no key in it")
    return Keys(entries)


def _entry(key: str, place: str, name: str = "") -> tuple[bytes, Caller]:
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise BadKeys(f"{place} has characters that a key can't have")
    digest = _digest(key.encode())
    return digest, Caller(f"name {name}" if name else digest.hex(), name or place)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
