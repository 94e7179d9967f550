"""Stand-in for the worker and the sidecar, with their command lines: environment variables make it exit or refuse.

Appends `ROLE SIGNAL` to the file named by STANDIN_LOG for each signal that it receives.
"""

import http.server
import os
import signal
import sys
import time
from types import FrameType

ROLE = sys.argv[1]
LOG = os.environ["STANDIN_LOG"]


def note(word: str) -> None:
    with open(LOG, "a") as log:
        log.write(f"{ROLE} {word}\n")


def on_signal(number: int, _frame: FrameType | None) -> None:
    note(signal.Signals(number).name)
    sys.exit(0)


class Answer(http.server.BaseHTTPRequestHandler):
    n_requests = 0

    def do_POST(self) -> None:
        # Not ready at first, like a sidecar whose worker is still loading.
        Answer.n_requests += 1
        self.send_response(503 if Answer.n_requests < 3 else int(os.environ.get("STANDIN_STATUS", "200")))
        self.end_headers()
        self.wfile.write(b'{"a": "word"}')

    def log_message(self, format: str, *args: object) -> None:
        pass


signal.signal(signal.SIGTERM, on_signal)
signal.signal(signal.SIGINT, on_signal)
note(f"pid={os.getpid()}")
if os.environ.get("STANDIN_DIES") == ROLE:
    time.sleep(0.5)
    sys.exit(7)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
