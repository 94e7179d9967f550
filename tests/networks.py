"""A network for one test, with chosen addresses: a Linux namespace in which programs may listen on any port."""

import fcntl
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOOPBACK = ("127.0.0.1", "::1")
OTHER_ADDRESSES = ("127.0.0.2", "fd00::2")
"""Addresses that every network with the family has besides loopback; 127.0.0.0/8 is all local."""


class Network:
    """A network; `prefix` runs a command in it."""

    def __init__(self, pid: int, holder: socket.socket) -> None:
        self._holder = holder
        namespaces = ("--user", "--net", "--mount", "--preserve-credentials")
        self.prefix = ("nsenter", f"--target={pid}", *namespaces, f"--wd={os.getcwd()}")

    def connect(self, host: str, port: int) -> socket.socket:
        """Raises OSError, such as ConnectionRefusedError."""
        return self._open("connect", host, port)

    def listen(self, host: str, port: int = 0) -> socket.socket:
        return self._open("listen", host, port)

    def listens(self, host: str, port: int) -> bool:
        try:
            self.connect(host, port).close()
        except ConnectionRefusedError:
            return False
        return True

    def get(self, host: str, port: int, path: str, body: object = None) -> tuple[int, bytes]:
        """Returns status and body of a GET, or of a POST of `body`."""
        connection = http.client.HTTPConnection("localhost", port)
        connection.sock = self.connect(host, port)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _open(self, *order: Any) -> socket.socket:
        self._holder.sendall(json.dumps(order).encode())
        reply, fds, *_ = socket.recv_fds(self._holder, 16, 1)
        if not fds:
            number = int(reply)
            raise OSError(number, os.strerror(number))
        opened = socket.socket(fileno=fds[0])
        opened.settimeout(30)
        return opened


@contextmanager
def network(folder: Path, *, ipv4: bool = True, ipv6: bool = True, hosts: str = "") -> Iterator[Network]:
    """Yields a network that ends with the block. `hosts` replaces the content of /etc/hosts, as a file in `folder`."""
    our_end, holder_end = socket.socketpair()
    file = folder / "hosts"
    file.write_text(hosts or Path("/etc/hosts").read_text())
    settings = json.dumps([ipv4, ipv6, str(file)])
    command = ("unshare", "--user", "--map-root-user", "--net", "--mount", sys.executable, "-m", __name__, settings)
    with our_end, holder_end, subprocess.Popen(command, stdin=holder_end.fileno()) as holder:
        holder_end.close()
        try:
            our_end.settimeout(30)
            assert our_end.recv(16) == b"ready", "network namespaces are not available: see unshare(1)"
            yield Network(holder.pid, our_end)
        finally:
            holder.kill()


# ---- In the namespace


def _set_up(ipv4: bool, ipv6: bool, hosts: str) -> None:
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("0" if ipv6 else "1")
    up, set_address, loopback_and_up = 0x8914, 0x8916, 0x49
    with socket.socket() as four:
        fcntl.ioctl(four, up, struct.pack("16sH22x", b"lo", loopback_and_up))
        if not ipv4:
            none = struct.pack("16sH2x4s16x", b"lo", socket.AF_INET, bytes(4))
            fcntl.ioctl(four, set_address, none)
    if ipv6:
        with socket.socket(socket.AF_INET6) as six:
            address = socket.inet_pton(socket.AF_INET6, OTHER_ADDRESSES[1])
            fcntl.ioctl(six, set_address, struct.pack("16sIi", address, 128, socket.if_nametoindex("lo")))
            while True:
                try:
                    six.bind((OTHER_ADDRESSES[1], 0))
                    break
                except OSError:  # the address is tentative for a moment
                    time.sleep(0.001)


def _serve(orders: socket.socket) -> None:
    while order := orders.recv(1000):
        action, host, port = json.loads(order)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as opened:
            try:
                if action == "connect":
                    opened.settimeout(10)
                    opened.connect((host, port))
                    opened.settimeout(None)
                else:
                    opened.bind((host, port))
                    opened.listen()
            except OSError as error:
                orders.sendall(str(error.errno or 0).encode())
            else:
                socket.send_fds(orders, [b"0"], [opened.fileno()])


if __name__ == "__main__":
    with socket.socket(fileno=sys.stdin.fileno()) as channel:
        _set_up(*json.loads(sys.argv[1]))
        channel.sendall(b"ready")
        _serve(channel)
