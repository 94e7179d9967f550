"""The keys that seal items for clients (core/sealing.py): those of the options, and those of the key file, which is
read again when it changes.

If the file is gone or has errors, the previous keys stay in use. Error messages never contain a key.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from secrets import token_urlsafe

from anyserve_common.file_watch import follow, signature
from openai_server.core.sealing import Keys, key_of

MIN_CHARACTERS = 32
"""Minimum length of a key."""
MAX_BYTES = 1 << 16
"""Maximum size of the file, in bytes."""


class BadItemKeys(ValueError):
    """The message names the bad key by its place."""


class ItemKeys:
    """`options` are keys, before those of `file`. Without any key, makes a new one. Raises BadItemKeys if a key is too
    short, or if the file can't be read at first."""

    def __init__(self, options: Sequence[str] = (), file: Path | None = None) -> None:
        self.is_temporary = not options and file is None
        """Whether the key is lost when this process ends."""
        if self.is_temporary:
            options = [new_key()]
        self._from_options = keys_from_options(options)
        self._files = [] if file is None else [file]
        self.keys: Keys = ()
        self._seen = signature(self._files)  # before reading, so that no later change is missed
        self._read()

    def share(self, secret: str) -> None:
        """Replaces the temporary key by one that other processes have too. Items sealed before that can be opened."""
        self.keys = (key_of(secret), *self.keys)
        self.is_temporary = False

    async def watch(self) -> None:
        """Reads the file again whenever it changes. Runs until cancelled."""
        if self._files:
            await follow(self._files, self._seen, self._read)

    def _read(self) -> None:
        self.keys = [*self._from_options, *(key for path in self._files for key in read(path))]


def new_key() -> str:
    return token_urlsafe(32)


def keys_from_options(secrets: Sequence[str]) -> Keys:
    """Raises BadItemKeys."""
    return _keys((f"key {number}", secret) for number, secret in enumerate(secrets, 1))


def read(path: Path) -> Keys:
    """The keys in the file, in its order. Raises BadItemKeys."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadItemKeys(f"can't read it: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise BadItemKeys(f"it is larger than {MAX_BYTES} bytes")
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise BadItemKeys("it is not UTF-8") from None  # the error itself would show the content
    secrets = [(f"line {number}", line.strip()) for number, line in enumerate(lines, 1)]
    keys = _keys((place, secret) for place, secret in secrets if secret and not secret.startswith("#"))
    if not keys:
        raise BadItemKeys("there is no key in it")
    return keys


def _keys(secrets: Iterable[tuple[str, str]]) -> Keys:
    """The keys of secrets, each with its place for errors. Raises BadItemKeys."""
    keys = []
    for place, secret in secrets:
        if len(secret) < MIN_CHARACTERS:
            raise BadItemKeys(f"{place} has fewer than {MIN_CHARACTERS} characters")
        keys.append(key_of(secret))
    return keys
