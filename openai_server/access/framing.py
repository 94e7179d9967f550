"""RFC 9112's rules for a request's head: where the message ends and what it targets. PURE.

The parser (llhttp) enforces the grammar. These are the rules that it leaves to the server, and the errors for both.
"""

import re
from collections.abc import Iterable, Sequence

from openai_server.errors import APIError

Header = tuple[bytes, bytes]

CHECKED = frozenset((b"host", b"transfer-encoding", b"expect"))
"""Names of the headers that `check` reads."""
MAX_TARGET_BYTES = 16 << 10
METHODS = "GET, HEAD, POST, OPTIONS"
"""What some path of this server answers."""

_HOST = re.compile(rb"(?:\[[0-9A-Fa-fvV:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::[0-9]*)?")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)


def invalid(problem: str) -> APIError:
    return APIError(400, f"The request is not valid HTTP: {problem}.", code="invalid_http")


def parser_error(reason: str) -> APIError:
    """The error for a request that llhttp has refused for `reason`."""
    if reason == "Pause on PRI/Upgrade":
        return _version_not_supported("2.0")
    return invalid(reason.strip(".") or "it can't be parsed")


def check(method: bytes, version: str, target: bytes, headers: Sequence[Header]) -> bytes:
    """The target in origin form, or `*`. `headers` are those in CHECKED, with lower-case names. Raises APIError."""
    if version not in ("1.1", "1.0"):
        _check_version(version)
    if method == b"CONNECT":
        raise APIError(405, "Method Not Allowed: CONNECT", headers={"allow": METHODS})
    codings: list[bytes] = []
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not _HOST.fullmatch(value):
                raise invalid("the Host header names no host")
        elif name == b"transfer-encoding":
            codings += (coding.strip(b" \t").lower() for coding in value.split(b","))
        elif version != "1.0" and value.lower() != b"100-continue":
            raise APIError(417, "The only expectation that this server meets is 100-continue.")
    if hosts != 1 and (hosts or version != "1.0"):
        raise invalid("it has no Host header" if not hosts else "it has more than one Host header")
    if codings and (version == "1.0" or codings != [b"chunked"]):
        raise _transfer_encoding(version, codings)
    return _origin_form(method, target)


def _check_version(version: str) -> None:
    """A higher minor version is read as 1.1 (RFC 9110, 2.5)."""
    if version == "0.9":
        raise invalid("the request line names no version of HTTP")
    if not version.startswith("1."):
        raise _version_not_supported(version)


def _version_not_supported(version: str) -> APIError:
    return APIError(505, f"This server speaks HTTP/1.1, not HTTP/{version}.", code="invalid_http")


def _transfer_encoding(version: str, codings: Sequence[bytes]) -> APIError:
    if version == "1.0":
        return invalid("HTTP/1.0 has no Transfer-Encoding")
    if b"chunked" in codings[:-1] or b"" in codings:
        return invalid("chunked must be the last Transfer-Encoding, once")
    return APIError(501, "The only Transfer-Encoding that this server reads is chunked.")


def _origin_form(method: bytes, target: bytes) -> bytes:
    if len(target) > MAX_TARGET_BYTES:
        raise target_too_long()
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return target
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not _HOST.fullmatch(absolute[1]):
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
    """The head, written again without its Upgrade header. A server may ignore an upgrade (RFC 9110, 7.8)."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
