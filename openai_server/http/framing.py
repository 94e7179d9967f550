"""RFC 9112's rules for a request's head: the end of the message, and its target. PURE.

The parser (llhttp) enforces the grammar. This module has the rules that it leaves to the server, and the errors for
both.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter

from openai_server.core.errors import APIError

Header = tuple[bytes, bytes]

MAX_TARGET_BYTES = 16 << 10
MAX_CACHED_BYTES = 300
"""Maximum length of a target or host in a cache. No valid host is longer: a DNS name has at most 253 bytes, without its
port."""
METHODS = "GET, HEAD, POST, OPTIONS"
"""Methods that the server supports on at least one path."""

_NAME = itemgetter(0)
_PATH = re.compile(rb"/[A-Za-z0-9\-._~!$&'()*+,;=:@/]*")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-fvV:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::[0-9]*)?")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)


def invalid(problem: str) -> APIError:
    return APIError(400, f"The request is not valid HTTP: {problem}.", code="invalid_http")


def parser_error(reason: str) -> APIError:
    """The error for a request that llhttp refuses with `reason`."""
    if reason == "Pause on PRI/Upgrade":
        return _version_not_supported("2.0")
    return invalid(reason.strip(".") or "it can't be parsed")


def check(method: bytes, version: str, target: bytes, headers: Sequence[Header]) -> tuple[bytes, bool]:
    """The target in origin form, or `*`; and whether the client waits for `100 Continue` before it sends the body.

    The names of `headers` are in lower case. Raises APIError.
    """
    names = list(map(_NAME, headers))
    n_hosts = names.count(b"host")
    is_plain = version == "1.1" and n_hosts == 1 and b"transfer-encoding" not in names and b"expect" not in names
    waits = False if is_plain else _check_special(version, n_hosts, headers)
    if n_hosts and not _is_host(headers[names.index(b"host")][1]):
        raise invalid("the Host header has no valid host")
    if method == b"CONNECT":
        raise APIError(405, "Method Not Allowed: CONNECT", headers={"allow": METHODS})
    return target if _is_path(target) else _origin_form(method, target), waits


def _check_special(version: str, n_hosts: int, headers: Sequence[Header]) -> bool:
    """Returns whether the client waits for `100 Continue`."""
    if version not in ("1.1", "1.0"):
        _check_version(version)
    if n_hosts > 1 or (n_hosts == 0 and version != "1.0"):
        raise invalid("it has more than one Host header" if n_hosts else "it has no Host header")
    expectations = [] if version == "1.0" else [value.strip(b" \t").lower() for value in _values(b"expect", headers)]
    if expectations and set(expectations) != {b"100-continue"}:
        raise APIError(417, "This server supports only the expectation 100-continue.")
    codings = [coding for value in _values(b"transfer-encoding", headers) for coding in value.split(b",")]
    codings = [coding.strip(b" \t").lower() for coding in codings]
    if codings and (version == "1.0" or codings != [b"chunked"]):
        raise _transfer_encoding(version, codings)
    return bool(expectations)


def _values(name: bytes, headers: Iterable[Header]) -> Iterator[bytes]:
    return (value for found, value in headers if found == name)


@lru_cache(maxsize=256)
def _matches_path(target: bytes) -> bool:
    return _PATH.fullmatch(target) is not None


def _is_path(target: bytes) -> bool:
    """Whether the target is in origin form, without a query. A few targets occur in nearly all requests, so the results
    are cached."""
    return len(target) <= MAX_CACHED_BYTES and _matches_path(target)


def _is_host(value: bytes) -> bool:
    return len(value) <= MAX_CACHED_BYTES and _matches_host(value)


@lru_cache(maxsize=256)
def _matches_host(value: bytes) -> bool:
    return _HOST.fullmatch(value.rstrip(b" \t")) is not None


def _check_version(version: str) -> None:
    """A higher minor version is read as 1.1 (RFC 9110, 2.5)."""
    if version == "0.9":
        raise invalid("the request line has no HTTP version")
    if not version.startswith("1."):
        raise _version_not_supported(version)


def _version_not_supported(version: str) -> APIError:
    return APIError(505, f"This server supports HTTP/1.1, not HTTP/{version}.", code="invalid_http")


def _transfer_encoding(version: str, codings: Sequence[bytes]) -> APIError:
    if version == "1.0":
        return invalid("HTTP/1.0 has no Transfer-Encoding")
    if b"chunked" in codings[:-1] or b"" in codings:
        return invalid("chunked must be the last Transfer-Encoding, once")
    return APIError(501, "This server supports only the Transfer-Encoding chunked.")


def _origin_form(method: bytes, target: bytes) -> bytes:
    if len(target) > MAX_TARGET_BYTES:
        raise target_too_long()
    if target[:1] != b"/":
        if target == b"*" and method == b"OPTIONS":
            return target
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not _is_host(absolute[1]):
            raise invalid("its target is neither a path nor an http URL")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    if b"#" in target:
        raise invalid("its target has a fragment")
    if b"%" in target and _BAD_ESCAPE.search(target):
        raise invalid("its target has a % without two hexadecimal digits")
    return target


def target_too_long() -> APIError:
    return APIError(414, f"The request target is longer than {MAX_TARGET_BYTES} bytes.")


def without_upgrade(method: bytes, target: bytes, version: str, headers: Iterable[Header]) -> bytes:
    """The head without its Upgrade header. A server may ignore an upgrade (RFC 9110, 7.8)."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
