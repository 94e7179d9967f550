"""Errors about files in a conversation. PURE.

Each names the place in the request where the file is named.
"""

from anyserve_common.text import shortened
from openai_server.core.errors import InvalidRequest

MAX_NAME = 100
"""Characters of a file's name in a message."""


class FileUnreadable(InvalidRequest):
    """`reason` continues the sentence "the file …". `name` None: the file has none."""

    def __init__(self, field: str, name: str | None, reason: str) -> None:
        subject = f"the file '{shortened(name, MAX_NAME)}'" if name else "the file"
        super().__init__(f"'{field}': {subject} {reason}.", param=field, code="unreadable_file")


class FileTextTooLong(InvalidRequest):
    def __init__(self, field: str, name: str | None, n_tokens: int, max_tokens: int) -> None:
        subject = f"the file '{shortened(name, MAX_NAME)}'" if name else "the file"
        super().__init__(
            f"'{field}': {subject} has {n_tokens} tokens of text; at most {max_tokens} are allowed.",
            param=field,
            code="file_too_long",
        )


class InvalidFileData(InvalidRequest):
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"'{field}' {problem}.", param=field, code="invalid_file_data")


class TooManyFiles(InvalidRequest):
    def __init__(self, field: str, max_files: int) -> None:
        super().__init__(
            f"'{field}': the conversation has more than {max_files} files, this server's limit.",
            param=field,
            code="too_many_files",
        )


class FileUrlRefused(InvalidRequest):
    """`reason` ends the message. It never reveals an address or what is there."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"'{field}': {reason}.", param=field, code="file_url_refused")
