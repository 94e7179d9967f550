"""Tries pipelines/your_api without an API: starts a stand-in for it, and the worker and the sidecar in front of it.

    python3 examples/foreign_api/try_it.py [OPTIONS OF make run, such as --port 8081]

Needs only Python's standard library. The stand-in answers every question with its words in reverse order:

    POST /generate         {"prompt": …, "params": {"temp": …, "max_length": …}}  → {"generated_text": …, "metadata": …}
    POST /generate/stream  the same request                                       → lines {"chunk": …, "finished": …}
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = Path(__file__).parent.resolve() / "pipelines"
KEY = "a-secret"
WORD_SECONDS = 0.05


class StandIn(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """The worker checks that the API can be reached."""
        self._send(200, {})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {KEY}":
            self._send(401, {"error": "wrong key"})
            return
        limit = request.get("params", {}).get("max_length")
        words = request["prompt"].split()[::-1][:limit]
        if self.path == "/generate":
            self._send(200, {"generated_text": " ".join(words), "metadata": {"tokens_generated": len(words)}})
        else:
            self._stream(words)

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, words: list[str]) -> None:
        """Without a content-length, the end of the connection ends the answer."""
        self.send_response(200)
        self.end_headers()
        for number, word in enumerate(words):
            line = {"chunk": word if number == 0 else f" {word}", "finished": number == len(words) - 1}
            self.wfile.write(json.dumps(line).encode() + b"\n")
            time.sleep(WORD_SECONDS)

    def log_message(self, format: str, *args: object) -> None:
        """Writes no line for each request."""


def main() -> int:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = {"YOUR_API_BASE_URL": f"http://127.0.0.1:{server.server_port}", "YOUR_API_KEY": KEY}
        # As `make run MODEL=none PIPELINES=examples/foreign_api/pipelines` does.
        command = [sys.executable, "-m", "scripts.run", "--model=none", f"--pipelines={PIPELINES}", *sys.argv[1:]]
        pair = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables})
        # Ctrl-C in a terminal reaches the pair as well, which then ends by itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: pair.terminate())
        status = pair.wait()
        server.shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
