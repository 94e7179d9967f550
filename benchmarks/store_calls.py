"""Sends the same requests to several sidecars in turn. Reads its orders as JSON from stdin.

    python -m benchmarks.store_calls < orders.json > seconds.json

Successive bursts differ by more than a store costs, so the sidecars take turns at each call, in random order.
"""

from __future__ import annotations

import json
import random
import sys

from benchmarks.raw_http import Connection, Timing, message

WARM_UP = 50


def main() -> None:
    orders = json.load(sys.stdin)
    connections = {name: Connection(port) for name, port in orders["ports"].items()}
    requests = {kind: message("POST", path, body) for kind, (path, body) in orders["kinds"].items()}
    seconds: dict[str, dict[str, list[Timing]]] = {kind: {name: [] for name in connections} for kind in requests}
    turns = [(kind, name) for kind in requests for name in connections]
    rng = random.Random(1)
    for number in range(WARM_UP + orders["calls"]):
        rng.shuffle(turns)
        for kind, name in turns:
            timing = connections[name].call(requests[kind])
            if number >= WARM_UP:
                seconds[kind][name].append(timing)
    json.dump(seconds, sys.stdout)


if __name__ == "__main__":
    main()
