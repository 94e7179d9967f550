"""Stand-in for the worker and the sidecar, with their command lines: environment variables make it exit or refuse.

Appends to the file named by STANDIN_LOG: `ROLE SIGNAL` for each signal that it receives, `ROLE asked=MODEL` for each
request, `ROLE store=URL` for the option --store, and some more of its options and variables. STANDIN_MODELS lists the
names in /v1/models.
"""

import http.server
import json
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

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        names = os.environ.get("STANDIN_MODELS", "").split()
        self.wfile.write(json.dumps({"data": [{"id": name} for name in names]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        note(f"asked={body.get('model')}")
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
if "--store" in sys.argv:
    note(f"store={sys.argv[sys.argv.index('--store') + 1]}")
for option in ("--model", "--pipelines", "--pipeline-python"):
    if option in sys.argv:
        note(f"{option}={sys.argv[sys.argv.index(option) + 1]}")
note(f"base_url={os.environ.get('OPENAI_BASE_URL')}")
if os.environ.get("STANDIN_DIES") == ROLE:
    time.sleep(0.5)
    sys.exit(7)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
