"""The addresses that a program listens on, and those at which its own machine reaches it.

An address is numeric. `localhost` stands for both loopback addresses, whatever the machine's resolver returns, and `::`
for every address, IPv4 and IPv6. Each socket has one address family, so that no client's address is an IPv4-mapped one.
"""

import errno
import logging
import os
import socket
from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1")
"""Both programs' default: a client that connects to `localhost` tries one or both of them, in either order."""
LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""By the address that stands for every address of a family."""
_ATTEMPTS = 20
"""Free ports that are tried until one is free on every address."""
_UNAVAILABLE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_PROBLEMS = {errno.EADDRINUSE: "the port is in use", errno.EADDRNOTAVAIL: "this machine has no such address"}


class AddressError(Exception):
    """A program can't listen on an address; the message is one line."""


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def resolve(hosts: Iterable[str]) -> list[str]:
    """The addresses of names and addresses, each once. Raises AddressError."""
    found = list(dict.fromkeys(address for host in hosts for address in _addresses(host)))
    covered = {_family(address) for address in found if address in LOOPBACK_OF}
    return [address for address in found if address in LOOPBACK_OF or _family(address) not in covered]


def usable(hosts: Iterable[str]) -> list[str]:
    """As `resolve`, without the addresses of a family that this machine lacks, which are logged.

    Raises AddressError if none is left.
    """
    found = resolve(hosts)
    left = [address for address in found if not _lacks_family_of(address)]
    if not left:
        raise AddressError(f"can't listen on {', '.join(found)}: this machine has no such address")
    if missing := [address for address in found if address not in left]:
        family = "IPv6" if ":" in missing[0] else "IPv4"
        log.info("this machine has no %s: %s is left out", family, ", ".join(missing))
    return left


def reached_at(address: str) -> str:
    """Where this machine reaches a server that listens on `address`."""
    return LOOPBACK_OF.get(address, address)


def bind(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """A socket for each address, on one port; 0 is one that is free on all of them. Raises AddressError."""
    for attempt in range(1, _ATTEMPTS + 1):
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                chosen = port_of(sockets) if sockets else port
                sockets.append(_bound(address, chosen))
        except OSError as error:
            _close(sockets)
            if port or attempt == _ATTEMPTS or error.errno != errno.EADDRINUSE:
                raise _refusal(address, chosen, error) from error
        else:
            return sockets
    raise AssertionError


def listen(addresses: Sequence[str], port: int, backlog: int = 2048) -> list[socket.socket]:
    """As `bind`; the sockets listen. Raises AddressError."""
    sockets = bind(addresses, port)
    for address, listener in zip(addresses, sockets, strict=True):
        try:
            listener.listen(backlog)
        except OSError as error:
            _close(sockets)
            raise _refusal(address, port, error) from error
    return sockets


def port_of(sockets: Sequence[socket.socket]) -> int:
    """The port of sockets from `bind` or `listen`."""
    port: int = sockets[0].getsockname()[1]
    return port


def _addresses(host: str) -> Iterable[str]:
    name = host.removeprefix("[").removesuffix("]")
    if name.lower() == "localhost":
        return LOOPBACK
    if name in LOOPBACK:
        return (name,)  # without a look-up, for which Python imports tables of Unicode
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:  # the latter from text that can't be a name
        raise AddressError(f"can't listen on {host!r}: {getattr(error, 'strerror', None) or error}") from error
    return ("0.0.0.0", *found) if "::" in found else found


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _bound(address: str, port: int) -> socket.socket:
    """Raises OSError."""
    bound = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound


def _lacks_family_of(address: str) -> bool:
    """An address that the machine lacks, of a family that it has, is a mistake, and not left out.

    Every address of a family can be bound even if there is none: then the loopback address decides.
    """
    loopback = LOOPBACK[_family(address) == socket.AF_INET6]
    return all(_is_unavailable(candidate) for candidate in (reached_at(address), loopback))


def _is_unavailable(address: str) -> bool:
    try:
        _bound(address, 0).close()
    except OSError as error:
        return error.errno in _UNAVAILABLE
    return False


def _refusal(address: str, port: int, error: OSError) -> AddressError:
    problem = _PROBLEMS.get(error.errno or 0) or os.strerror(error.errno or 0)
    return AddressError(f"can't listen on {endpoint(address, port)}: {problem}")


def _close(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()
