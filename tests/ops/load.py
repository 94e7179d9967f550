"""Clients that send without a pause, each on one connection as long as the server keeps it open."""

import http.client
import itertools
import json
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.ops.client import SHORT


class Load:
    """`urls` returns the servers that are ready at the moment; clients use them in turn."""

    def __init__(self, urls: Callable[[], list[str]], n_clients: int = 4) -> None:
        self._urls = urls
        self._lock = threading.Lock()
        self._grew = threading.Condition(self._lock)
        self.n_good = 0
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(n_clients)]
        for thread in self._threads:
            thread.start()

    def wait_for_more(self, n: int, timeout: float = 60) -> None:
        """Blocks until `n` more requests have been answered, or one has failed."""
        with self._grew:
            target = self.n_good + n
            assert self._grew.wait_for(lambda: self.n_good >= target or self.failures, timeout)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: int) -> None:
        connections: dict[str, http.client.HTTPConnection] = {}
        for i in itertools.count(client):
            if self._ended.is_set():
                break
            urls = self._urls()
            url = urls[i % len(urls)]
            if url not in connections:
                connections[url] = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
            failure = _send(connections[url], stream=bool(i % 2))
            with self._grew:
                if failure:
                    self.failures.append(f"{url}: {failure}")
                else:
                    self.n_good += 1
                self._grew.notify_all()
        for connection in connections.values():
            connection.close()


def _send(connection: http.client.HTTPConnection, *, stream: bool) -> str:
    """Returns what went wrong, or ""."""
    try:
        content = json.dumps(SHORT | {"stream": stream})
        connection.request("POST", "/v1/chat/completions", content)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return repr(error)
    if response.status != 200 or b'data: {"error"' in body:
        return f"{response.status} {body[-300:]!r}"
    return ""
