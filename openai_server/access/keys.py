"""API keys, and the caller that each one belongs to.

PURE. Keys are kept and looked up by their digests: the time of a lookup doesn't depend on the number of keys, and it
reveals at most something about a digest, from which no key can be guessed. Error messages about a bad key or line
never contain its text.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from openai_server.core.errors import Unauthorized

Header = tuple[bytes, bytes]

KEY_HEADERS = {b"authorization": "Authorization", b"api-key": "api-key", b"x-api-key": "x-api-key"}
"""Headers with a key: OpenAI's as `Bearer KEY`, Azure's and Anthropic's as it is. Each has its name in messages."""
_LABEL_LENGTH = 32
"""Characters of a caller's label: half of the digest of a key without a name, or part of the digest of a long name."""


class Caller(NamedTuple):
    """The owner of one or several API keys, which share its limits."""

    id: str
    name: str
    """The name in logs and error messages."""

    @property
    def label(self) -> str:
        """The caller's name for backends, which doesn't reveal its key. Empty for ANYBODY."""
        return self.id[:_LABEL_LENGTH]


ANYBODY = Caller("", "")
"""The caller of every request to a server without keys."""


class BadKeys(ValueError):
    """The message names the bad key by its place, and never contains its text."""


class Keys:
    """The callers by their keys. Without keys, every request is allowed."""

    def __init__(self, callers: Iterable[tuple[bytes, Caller]] = ()) -> None:
        self._callers = dict(callers)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def __len__(self) -> int:
        return len(self._callers)

    def __or__(self, other: "Keys") -> "Keys":
        """Both sets of keys together. Raises BadKeys if a key belongs to different callers in the two."""
        for digest, caller in self._callers.items():
            if other._callers.get(digest, caller).id != caller.id:
                raise BadKeys(f"it gives {caller.name} of --api-key to another caller")
        return Keys((self._callers | other._callers).items())

    def caller(self, headers: Iterable[Header]) -> Caller:
        """The caller of a request with these headers. Raises Unauthorized."""
        if not self._callers:
            return ANYBODY
        key = _sent_key(headers)
        if (caller := self._callers.get(_digest(key))) is None:
            raise Unauthorized("The API key is not one of this server's keys.")
        return caller


def keys_from_options(keys: Sequence[str]) -> Keys:
    """Raises BadKeys."""
    return Keys(_entry(key, f"key {i}") for i, key in enumerate(keys, 1))


def keys_from_file(text: str) -> Keys:
    """Reads lines of the form `key` or `name: key`; keys with the same name share its limits. A repeated line has no
    effect. Raises BadKeys, also for a key of two callers.
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


def _sent_key(headers: Iterable[Header]) -> bytes:
    """The key of a request. Raises Unauthorized if it has none, or different ones."""
    keys: dict[str, bytes] = {}
    for name, value in headers:
        if (header := KEY_HEADERS.get(name)) is None:
            continue
        if header in keys:
            raise Unauthorized(f"There is more than one {header} header.")
        keys[header] = _of_authorization(value) if name == b"authorization" else value.strip()
        if not keys[header]:
            raise Unauthorized(f"The {header} header holds no API key.")
    if not keys:
        raise Unauthorized(
            "No API key was given: send it as 'Authorization: Bearer KEY', or in the header 'api-key' or 'x-api-key'."
        )
    if len(set(keys.values())) > 1:
        raise Unauthorized(f"The headers {' and '.join(keys)} hold different API keys; send only one.")
    return next(iter(keys.values()))


def _of_authorization(value: bytes) -> bytes:
    """The key, which may be empty. Raises Unauthorized for another form than `Bearer KEY`."""
    scheme, _, key = value.partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthorized("The Authorization header is not of the form 'Bearer KEY'.")
    return key.strip()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
