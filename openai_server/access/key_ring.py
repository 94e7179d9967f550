"""The API keys of the options and of the key file, which is read again when it changes.

If the file is gone or has errors, the previous keys stay in use.
"""

from collections.abc import Sequence
from pathlib import Path

from anyserve_common.file_watch import follow, signature
from openai_server.access.keys import BadKeys, Keys, keys_from_file, keys_from_options

MAX_BYTES = 1 << 20
"""Maximum size of the key file, in bytes."""


class KeyRing:
    """`options` are keys, `file` is the key file. Raises BadKeys if the file can't be read at first."""

    def __init__(self, options: Sequence[str] = (), file: Path | None = None) -> None:
        self._from_options = keys_from_options(options)
        self._files = [] if file is None else [file]
        self._seen = signature(self._files)  # before reading them, so that no later change is missed
        self._read()

    async def watch(self) -> None:
        """Reads the file again whenever it changes. Runs until cancelled."""
        if self._files:
            await follow(self._files, self._seen, self._read)

    def _read(self) -> None:
        keys = self._from_options
        for path in self._files:
            keys |= read(path)
        self.keys = keys


def read(path: Path) -> Keys:
    """Raises BadKeys."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadKeys(f"can't read it: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise BadKeys(f"it is larger than {MAX_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise BadKeys("it is not UTF-8") from None  # the error itself would show the content
    return keys_from_file(text)
