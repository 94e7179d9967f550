"""URLs and the prefixes that allow them. PURE.

A URL is compared in parts, never as text, and is read more strictly than browsers and libraries do: what two of them
could read as different hosts or paths is no URL here.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

MAX_URL = 2048
"""Characters."""
_PORTS = {"http": 80, "https": 443}
_HOST = r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\]"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
_CHARACTERS = re.compile(r"[!#-;=?-\[\]_a-z~]*", re.IGNORECASE)
r"""ASCII without whitespace, quotes, `<`, `>`, `\`, `^`, backticks, `{`, `|` and `}`."""
_DECODINGS = 5
"""Times that a path is decoded in search of `..`: some servers decode twice."""


class BadUrl(Exception):
    """The message says what a URL must be."""


class Url(NamedTuple):
    scheme: str
    host: str
    """In lower case; an IPv6 address has its brackets."""
    port: int
    path: str
    """As it is sent; begins with a slash."""
    query: str
    """With its question mark; empty if there is none."""

    @property
    def authority(self) -> str:
        """The value of the header Host."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """The name of the file there; empty if the path has none."""
        return unquote(self.path.rpartition("/")[2], errors="replace")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}{self.query}"


def parsed(text: str) -> Url:
    """Raises BadUrl."""
    if len(text) > MAX_URL:
        raise BadUrl(f"a URL has at most {MAX_URL} characters")
    found = _URL.fullmatch(text) if _CHARACTERS.fullmatch(text) else None
    if found is None:
        raise BadUrl("a URL has the form https://HOST/PATH, in ASCII, without a user name")
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = _PORTS[scheme] if found["port"] is None else int(found["port"])
    if not 0 < port < 1 << 16:
        raise BadUrl("a URL's port is between 1 and 65535")
    path = found["path"] or "/"
    if _has_dots(path):
        raise BadUrl("a URL's path has no segment '.' or '..'")
    return Url(scheme, host, port, path, found["query"] or "")


def parsed_prefix(text: str) -> Url:
    """The prefix of allowed URLs. Raises BadUrl."""
    if "?" in text or "#" in text:
        raise BadUrl("a prefix of URLs has no query and no fragment")
    return parsed(text)


def _has_dots(path: str) -> bool:
    for _ in range(_DECODINGS):
        if any(segment.partition(";")[0] in (".", "..") for segment in path.replace("\\", "/").split("/")):
            return True
        if (path := (before := path) and unquote(path)) == before:
            return False
    return True


def is_allowed(url: Url, prefix: Url) -> bool:
    """Whether the URL is in the place that the prefix names. A prefix without a slash at its end stands for this path
    and those below it."""
    if url[:3] != prefix[:3]:
        return False
    return url.path.startswith(prefix.path) and (
        prefix.path.endswith("/") or url.path[len(prefix.path) : len(prefix.path) + 1] in ("", "/")
    )
