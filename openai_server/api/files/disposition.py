"""Names of files in headers: Content-Disposition (RFC 6266, RFC 7578). PURE.

A name is data: it may contain anything that a client sends, and is never used as a path.
"""

import re
from urllib.parse import quote, unquote_to_bytes

_PARAMETER = re.compile(rb';[ \t]*([\w!#$%&\'*+.^`|~-]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;" \t]*)[ \t]*', re.DOTALL)
_ESCAPED = re.compile(rb'\\(["\\])')
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")
_NOT_ASCII = re.compile(r"[^A-Za-z0-9 !#$&'()+,.=@^_`{}~-]")


MAX_SENT_CHARACTERS = 200
"""Length of a name in a header of a response: proxies refuse long headers. The middle of a longer name is left out."""
_END = 20
"""Characters of the end of such a name."""


def parameters(value: bytes) -> dict[str, str]:
    """The parameters of a header, with their names in lower case. `filename*` replaces `filename`; bytes that are no
    UTF-8 become U+FFFD. Empty if the header is malformed."""
    kind, semicolon, _ = value.partition(b";")
    found: dict[str, str] = {}
    position = len(kind)
    while semicolon and position < len(value):
        match = _PARAMETER.match(value, position)
        if match is None:
            return {}
        name, text = match[1].decode("ascii", "replace").lower(), match[2]
        if text.startswith(b'"'):
            text = _ESCAPED.sub(rb"\1", text[1:-1])
        found.setdefault(name, text.decode("utf-8", "replace"))
        position = match.end()
    extended = _decoded(found.pop("filename*", ""))
    if extended is not None:
        found["filename"] = extended
    return found


def kind_of(value: bytes) -> bytes:
    """The first part of a header, in lower case, such as `form-data`."""
    return value.partition(b";")[0].strip(b" \t").lower()


def attachment(filename: str) -> str:
    """The value of Content-Disposition for a file of this name, in ASCII."""
    if len(filename) > MAX_SENT_CHARACTERS:
        filename = filename[: MAX_SENT_CHARACTERS - _END] + filename[-_END:]
    safe = _UNSAFE.sub("_", filename) or "file"
    ascii_only = _NOT_ASCII.sub("_", safe)
    extended = "" if ascii_only == safe else f"; filename*=UTF-8''{quote(safe, safe='')}"
    return f'attachment; filename="{ascii_only}"{extended}'


def _decoded(text: str) -> str | None:
    """The value of `filename*` (RFC 8187); None if it is malformed."""
    charset, quote_1, rest = text.partition("'")
    _, quote_2, encoded = rest.partition("'")
    if not (quote_1 and quote_2) or charset.lower() not in ("utf-8", "iso-8859-1"):
        return None
    return unquote_to_bytes(encoded).decode(charset, "replace")
