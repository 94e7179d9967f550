"""Checks the values of `--anyserve-endpoint`: addresses of backends. PURE."""

import ipaddress
import re

FORM = "HOST:PORT ([ADDRESS]:PORT for IPv6), dns:///HOST:PORT or unix:PATH"

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(?:\.{_LABEL})*\.?")
_LIKE_IPV4 = re.compile(r"\d+(?:\.\d+){3}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_UNIX_PATH = re.compile(r"unix:(?:[^/]|/(?!/)|///[^/])[^\0]*|unix-abstract:[^\0]+")


def problem_with(endpoint: str) -> str | None:
    """The problem with the endpoint, as the end of a sentence; None if it is valid."""
    if endpoint.startswith(("unix:", "unix-abstract:")):
        return None if _UNIX_PATH.fullmatch(endpoint) else "has no path of a socket"
    address = endpoint.removeprefix("dns:///")
    if scheme := _SCHEME.match(address):
        return f"begins with {scheme[0]}"
    if "/" in address:
        return "has a path"
    host, colon, port = address.rpartition(":")
    if not (colon and port) or address.endswith("]"):
        return "has no port"
    if not host:
        return "has no host"
    if ":" in host and not host.startswith("["):
        return "has more than one colon (an IPv6 address must be in brackets)"
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        return "has a port that is not a number from 1 to 65535"
    return None if _is_host(host) else "has a host that is neither a name nor an address"


def _is_host(host: str) -> bool:
    if host.startswith("["):
        return host.endswith("]") and _is_address(host[1:-1], ipaddress.IPv6Address)
    if _LIKE_IPV4.fullmatch(host):
        return _is_address(host, ipaddress.IPv4Address)
    return _NAME.fullmatch(host) is not None


def _is_address(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
