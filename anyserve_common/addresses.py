"""Resolves and binds the addresses that a program listens on.

An address is numeric. `localhost` means both loopback addresses, whatever the machine's resolver returns, and `::`
means every address, IPv4 and IPv6. Each socket has one address family, so that clients have no IPv4-mapped addresses.
"""

import errno
import logging
import os
import socket
from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1")
"""Both programs' default. A client that connects to `localhost` tries one or both of them, in either order."""
LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""The loopback address of each family, by the address that means all addresses of the family."""
MAX_BIND_ATTEMPTS = 20
"""Free ports to try until one is free on every address."""
_UNAVAILABLE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_PROBLEMS = {errno.EADDRINUSE: "the port is in use", errno.EADDRNOTAVAIL: "this machine has no such address"}


class AddressError(Exception):
    """The program can't listen on an address. The message is one line."""


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def resolve(hosts: Iterable[str]) -> list[str]:
    """Returns the addresses of names and addresses, without duplicates. Raises AddressError."""
    resolved = list(dict.fromkeys(address for host in hosts for address in _addresses(host)))
    covered = {_family(address) for address in resolved if address in LOOPBACK_OF}
    return [address for address in resolved if address in LOOPBACK_OF or _family(address) not in covered]


def usable(hosts: Iterable[str]) -> list[str]:
    """Resolves as `resolve` does, but skips and logs the addresses of a family that this machine lacks.

    Raises AddressError if none is left.
    """
    resolved = resolve(hosts)
    left = [address for address in resolved if not _lacks_family_of(address)]
    if not left:
        raise AddressError(f"can't listen on {', '.join(resolved)}: this machine has no such address")
    if missing := [address for address in resolved if address not in left]:
        family = "IPv6" if ":" in missing[0] else "IPv4"
        log.info("this machine has no %s: not listening on %s", family, ", ".join(missing))
    return left


def reached_at(address: str) -> str:
    """Returns the address at which this machine reaches a server that listens on `address`."""
    return LOOPBACK_OF.get(address, address)


def bind(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Returns a socket per address, all on one port; 0 picks a port that is free on all. Raises AddressError."""
    for attempt in range(1, MAX_BIND_ATTEMPTS + 1):
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                chosen = port_of(sockets) if sockets else port
                sockets.append(_bound(address, chosen))
        except OSError as error:
            _close(sockets)
            if port or attempt == MAX_BIND_ATTEMPTS or error.errno != errno.EADDRINUSE:
                raise _refusal(address, chosen, error) from error
        else:
            return sockets
    raise AssertionError


def listen(addresses: Sequence[str], port: int, backlog: int = 2048) -> list[socket.socket]:
    """Binds as `bind` does, and listens. Raises AddressError."""
    sockets = bind(addresses, port)
    for address, listener in zip(addresses, sockets, strict=True):
        try:
            listener.listen(backlog)
        except OSError as error:
            _close(sockets)
            raise _refusal(address, port, error) from error
    return sockets


def port_of(sockets: Sequence[socket.socket]) -> int:
    """Returns the port of sockets from `bind` or `listen`."""
    port: int = sockets[0].getsockname()[1]
    return port


def _addresses(host: str) -> Iterable[str]:
    name = host.removeprefix("[").removesuffix("]")
    if name.lower() == "localhost":
        return LOOPBACK
    if name in LOOPBACK:
        return (name,)  # A look-up would make Python import its Unicode tables.
    try:
        resolved = [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:  # UnicodeError: text that can't be a name
        raise AddressError(f"can't listen on {host!r}: {getattr(error, 'strerror', None) or error}") from error
    return ("0.0.0.0", *resolved) if "::" in resolved else resolved


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
    """Returns whether the machine lacks the whole family. An unknown address of an existing family is an error instead.

    `0.0.0.0` and `::` can be bound even if their family has no address, so the loopback address decides.
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
    for bound in sockets:
        bound.close()
