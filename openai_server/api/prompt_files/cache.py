"""The texts of files that were read before. PURE."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple


class FileKey(NamedTuple):
    """Identifies a text. Texts of one caller are never another's, not even by how soon they come."""

    owner: str
    source: str
    """The id of a file that is stored, or a digest of its bytes: neither ever stands for other bytes."""
    extension: str
    """The end of the name, which may decide how the file is read."""


@dataclass(slots=True)
class FileText:
    text: str
    n_tokens: dict[str, int] = field(default_factory=dict)
    """By model, as far as they have been counted."""


ENTRY_CHARACTERS = 1024
"""Characters that take about as much memory as an entry without its text."""


class TextCache:
    """The texts that were used last, up to `max_characters` together with ENTRY_CHARACTERS for each."""

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        self._n_characters = 0
        self._texts: OrderedDict[FileKey, FileText] = OrderedDict()

    def get(self, key: FileKey) -> FileText | None:
        if (found := self._texts.get(key)) is not None:
            self._texts.move_to_end(key)
        return found

    def put(self, key: FileKey, text: FileText) -> None:
        if (old := self._texts.pop(key, None)) is not None:
            self._n_characters -= _size(old)
        self._texts[key] = text
        self._n_characters += _size(text)
        while self._n_characters > self._max_characters:
            _, oldest = self._texts.popitem(last=False)
            self._n_characters -= _size(oldest)


def _size(text: FileText) -> int:
    return len(text.text) + ENTRY_CHARACTERS
