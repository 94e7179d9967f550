"""Why a file has no text for a prompt. PURE."""


class Unreadable(Exception):
    """A file whose text can't be had. `reason` continues the sentence "the file …"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MissingPackage(Exception):
    """A package of the extra `files` that isn't installed; the message is its name."""


NO_TEXT = "is not a file whose text can be read"
"""The reason for a file in a format that is no text."""
IS_EMPTY = "has no text"
TOO_SLOW = "takes too long to read"
TOO_MUCH_MEMORY = "takes too much memory to read"
BROKEN_PDF = "is not a PDF that can be read"
