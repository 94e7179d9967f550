"""Starts the load generator and reads the answers that it has recorded."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from benchmarks.orders import Answer, Orders
from benchmarks.processes import Job

MARGIN_S = 30.0


def start(orders: Orders) -> Job:
    return Job([sys.executable, "-m", "benchmarks.load"], json.dumps(asdict(orders)).encode())


def answers(job: Job, orders: Orders) -> list[Answer]:
    return [Answer(**fields) for fields in json.loads(job.answer(orders.limit_s + MARGIN_S))]


def load(orders: Orders) -> list[Answer]:
    return answers(start(orders), orders)
