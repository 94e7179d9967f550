"""Clients that never pause, each on one connection as long as the server keeps it."""

import http.client
import itertools
import json
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.ops.client import SHORT


class Load:
    """`urls` says who may be asked at the moment; clients take turns among them."""

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
        """Blocks until so many more requests have been answered, or one has failed."""
        with self._grew:
            wanted = self.n_good + n
            assert self._grew.wait_for(lambda: self.n_good >= wanted or self.failures, timeout)

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
            failure = _ask(connections[url], stream=bool(i % 2))
            with self._grew:
                if failure:
                    self.failures.append(f"{url}: {failure}")
                else:
                    self.n_good += 1
                self._grew.notify_all()
        for connection in connections.values():
            connection.close()


def _ask(connection: http.client.HTTPConnection, *, stream: bool) -> str:
    """What went wrong."""
    try:
        body = json.dumps(SHORT | {"stream": stream})
        connection.request("POST", "/v1/chat/completions", body)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return repr(error)
    if response.status != 200 or b'data: {"error"' in answer:
        return f"{response.status} {answer[-300:]!r}"
    return ""
