"""`python -m tests.ops.recording_proxy URL`: forwards requests to a server and records them, trimmed for the tests.

Point a client at the port that it prints. The recorded requests are in the form of tests/wire/recorded.
"""

import http.client
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

TEXT_CHARS = 60
"""Characters that stay of a longer text."""
WHOLE_KEYS = frozenset({"definition", "arguments", "input", "partial_json", "image_url", "data"})
"""Texts that have a meaning for the server, so that none of them is cut."""
RECORDED_HEADERS = (
    "accept",
    "anthropic-",
    "openai-",
    "originator",
    "session-id",
    "thread-id",
    "user-agent",
    "x-claude",
)
PLACEHOLDERS = {"encrypted_content": "enc-opaque", "signature": "sig-opaque"}
"""Stand for values that only the server that made them can read."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "date", "server"})


@dataclass
class Trimmer:
    """Shortens texts and replaces what differs between two recordings, but keeps every key and every type."""

    replacements: Mapping[str, str] = field(default_factory=dict)
    """Texts to replace, such as a temporary folder."""
    _uuids: dict[str, str] = field(default_factory=dict)

    def trim(self, value: Any, key: str = "") -> Any:
        match value:
            case dict():
                return {name: self.trim(element, name) for name, element in value.items()}
            case list():
                return [self.trim(element, key) for element in value]
            case str():
                return PLACEHOLDERS.get(key) or self._text(value, key)
            case _:
                return value

    def _text(self, text: str, key: str) -> str:
        for old, new in self.replacements.items():
            text = text.replace(old, new)
        text = _UUID.sub(lambda match: self._uuid(match[0]), text)
        cut = len(text) > TEXT_CHARS + 20 and key not in WHOLE_KEYS and not text.startswith("{")
        return f"{text[:TEXT_CHARS]}…" if cut else text

    def _uuid(self, uuid: str) -> str:
        return self._uuids.setdefault(uuid, f"00000000-0000-7000-8000-{len(self._uuids) + 1:012}")


@dataclass
class RecordedRequest:
    path: str
    headers: dict[str, str]
    body: Any

    def as_json(self, trimmer: Trimmer) -> dict[str, Any]:
        headers = {name: value for name, value in self.headers.items() if name.startswith(RECORDED_HEADERS)}
        if agent := headers.get("user-agent"):
            headers["user-agent"] = agent.partition(" ")[0]
        return {"path": self.path, "headers": trimmer.trim(headers), "body": trimmer.trim(self.body)}


def to_text(client: str, requests: list[dict[str, Any]]) -> str:
    """Returns a file of tests/wire/recorded: one line for each short value, and for each element of a list."""
    return _lines({"client": client, "requests": requests}, depth=4) + "\n"


def _lines(value: Any, depth: int, indent: str = "") -> str:
    whole = json.dumps(value, ensure_ascii=False)
    if depth == 0 or len(whole) < 100 or not isinstance(value, dict | list) or not value:
        return whole
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {_lines(element, depth - 1, inner)}" for name, element in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _lines(element, depth, inner) for element in value) + f"\n{indent}]"


class RecordingProxy:
    """Forwards HTTP requests to the server at `url`, and keeps them."""

    def __init__(self, url: str) -> None:
        self.requests: list[RecordedRequest] = []
        self.statuses: list[int] = []
        """HTTP statuses of the responses, in the order in which they began."""
        self.failed: list[str] = []
        """Data of stream events that report a failure."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(urlsplit(url).netloc))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self, target: str) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                proxy.requests.append(RecordedRequest(self.path, headers, json.loads(body) if body else None))
                backend = http.client.HTTPConnection(target)
                try:
                    # Compressed responses could not be read here.
                    backend.request(self.command, self.path, body, {**headers, "accept-encoding": "identity"})
                    self._answer(backend.getresponse())
                except OSError:  # the client left
                    self.close_connection = True
                finally:
                    backend.close()

            def _answer(self, response: http.client.HTTPResponse) -> None:
                proxy.statuses.append(response.status)
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                # Without a length, the end of the connection is the end of the body.
                self.send_header("connection", "close")
                self.end_headers()
                while line := response.readline():
                    if line.startswith(b"data: ") and b'"type":"response.failed"' in line:
                        proxy.failed.append(line.decode())
                    self.wfile.write(line)
                    self.wfile.flush()

            do_GET = do_POST = do_DELETE = _forward

        return Handler


@contextmanager
def recording(url: str) -> Iterator[RecordingProxy]:
    proxy = RecordingProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()


@click.command()
@click.argument("url")
@click.option("--client", default="client", help="Name and version of the client, for the file.")
@click.option("--output", type=click.Path(path_type=Path), help="File to write. Default: print.")
def main(url: str, client: str, output: Path | None) -> None:
    """Records requests to the server at URL until Enter is pressed."""
    with recording(url) as proxy:
        click.echo(f"recording on {proxy.url}; press Enter to end")
        sys.stdin.readline()
        trimmer = Trimmer()
        text = to_text(client, [request.as_json(trimmer) for request in proxy.requests])
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text)


if __name__ == "__main__":
    main()
