"""API keys: which there are, and whose the one in a request is.

PURE. Keys are kept as digests alone, and looked up by them: that takes as long for ten thousand keys as for one, and
how long it takes depends on the digest, from which nobody can guess a key. What is said of a bad key or a bad line
never holds any of its text.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from openai_server.core.errors import Unauthorized

Header = tuple[bytes, bytes]

_LABEL_LENGTH = 32
"""Characters: of a key without a name, half of its digest; of a long name, a part of its digest."""


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
        """Raises BadKeys if a key is one caller's in the first and another one's in the second."""
        for digest, caller in self._callers.items():
            if other._callers.get(digest, caller).id != caller.id:
                raise BadKeys(f"it gives {caller.name} of --api-key to another caller")
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
        if (caller := self._callers.get(_digest(key))) is None:
            raise Unauthorized("The API key is not one of this server's.")
        return caller


def keys_from_options(given: Sequence[str]) -> Keys:
    """Raises BadKeys."""
    return Keys(_entry(key, f"key {i}") for i, key in enumerate(given, 1))


def keys_from_file(text: str) -> Keys:
    """One key a line, or `name: key`; keys of one name share its limits. Raises BadKeys, also for a key of two callers.

    The same line twice is one key of one caller.
    """
    callers: dict[bytes, Caller] = {}
    numbers: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        digest, caller = _line(line.split(), f"line {number}")
        if callers.setdefault(digest, caller).id != caller.id:
            raise BadKeys(f"lines {numbers[digest]} and {number} have the same key, but are two callers")
        numbers.setdefault(digest, number)
    if not callers:
        raise BadKeys("there is no key in it")
    return Keys(callers.items())


def _line(words: Sequence[str], place: str) -> tuple[bytes, Caller]:
    is_named = len(words[0]) > 1 and words[0].endswith(":")
    if is_named and len(words) == 1:
        raise BadKeys(f"{place} has a name without a key")
    if len(words) > 1 + is_named or words[0] == ":":
        raise BadKeys(f"{place} is neither a key nor of the form 'name: key'")
    return _entry(words[-1], place, words[0][:-1] if is_named else "")


def _entry(key: str, place: str, name: str = "") -> tuple[bytes, Caller]:
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise BadKeys(f"{place} has characters that a key can't have")
    digest = _digest(key.encode())
    if not name:
        return digest, Caller(digest.hex(), place)
    id = f"name {name}"  # a label is its beginning, which long names may share
    return digest, Caller(id if len(id) <= _LABEL_LENGTH else f"name {_digest(name.encode()).hex()}", name)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
