"""Sends requests one after another for a while, and returns the seconds of each. Reads its orders as JSON from stdin.

python -m benchmarks.store_probe < orders.json > seconds.json
"""

from __future__ import annotations

import json
import random
import sys
import time

from benchmarks.raw_http import Connection, message


def main() -> None:
    orders = json.load(sys.stdin)
    connection = Connection(orders["port"])
    requests = [message(*request) for request in orders["requests"]]
    rng = random.Random(1)
    tick: float = orders["tick_s"]
    taken: list[float] = []
    deadline = time.perf_counter() + orders["seconds"]
    while (now := time.perf_counter()) < deadline and len(taken) < orders["calls"]:
        taken.append(connection.call(rng.choice(requests)).whole)
        time.sleep(max(0.0, now + tick - time.perf_counter()))
    json.dump(taken, sys.stdout)


if __name__ == "__main__":
    main()
