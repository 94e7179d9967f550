"""Measures one sidecar in front of three workers with the same model, with and without affinity to prefixes.

Both sidecars run at the same time and take turns at the workers, each with prompts of its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import client, figures, loading, prompts
from benchmarks.orders import Answer, Orders
from benchmarks.processes import Process
from benchmarks.settings import Settings
from benchmarks.stats import interleaved, medians, paired_ratios, ratio
from benchmarks.systems import MODEL
from scripts.errors import Fail
from scripts.ports import free_port

AFFINITY, LOAD_ALONE = "affinity", "load alone"
SIDECARS = {AFFINITY: "--prefix-affinity", LOAD_ALONE: "--no-prefix-affinity"}
CONVERSATIONS, HOT = "conversations", "hot prefix"
WORKERS = 3
START_S = 120.0
SYSTEM_TOKENS, USER_TOKENS, ANSWER_TOKENS = 200, 40, 24
"""Tokens of the system prompt, of each message of a user but the first one, and of each answer."""
HOT_TOKENS = 1000
GENERATION_LOGGED = " outcome="
"""Text that a worker's log has once for each generation."""


@dataclass
class System:
    """The sidecars' ports by name, and the workers behind each of them."""

    ports: dict[str, int]
    workers: list[Process]

    def generations(self) -> list[int]:
        """Number of generations that each worker has computed."""
        return [worker.output.count(GENERATION_LOGGED) for worker in self.workers]


def measure(settings: Settings, model: Path) -> dict[str, Any]:
    """Medians over rounds by point and sidecar, and medians of the ratios to LOAD_ALONE within a round."""
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {CONVERSATIONS: {}, HOT: {}}
    with _running(settings, model) as system:
        for number, name in interleaved(list(SIDECARS), settings.replica_rounds):
            for point, chats, turns in (
                (CONVERSATIONS, conversations, settings.turns),
                (HOT, hot_prefix, 1),
            ):
                began = time.monotonic()
                found = _point(settings, system, name, chats(f"{number} {name} {point}", settings), turns)
                rounds[point].setdefault(name, []).append(found)
                listed = ", ".join(f"{key} {value:.3g}" for key, value in found.items())
                print(
                    f"replicas, {number + 1}: {name}, {point}, {time.monotonic() - began:.0f} s: {listed}", flush=True
                )
    return {
        "setup": {
            "model": model.name,
            "workers": WORKERS,
            "users": settings.replica_users,
            "conversations": settings.conversations,
            "turns": settings.turns,
            "system_tokens": SYSTEM_TOKENS,
            "document_tokens": settings.document_tokens,
            "hot_tokens": HOT_TOKENS,
            "pause_s": settings.pause_s,
            "rounds": settings.replica_rounds,
        },
        "rounds": rounds,
        "points": summary(rounds),
    }


def summary(rounds: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Medians by point and sidecar, and medians of the ratios within a round to LOAD_ALONE. PURE."""
    return {
        point: {
            name: {"median": medians(per_round), "to_load_alone": paired_ratios(per_round, by_name[LOAD_ALONE])}
            for name, per_round in by_name.items()
        }
        for point, by_name in rounds.items()
    }


def conversations(seed: str, settings: Settings) -> list[str]:
    """The requests of all conversations, one conversation after the other. Each begins with a document.

    The answers in them are prepared ones, which differ from those that the model has just computed.
    """
    system = {"role": "system", "content": prompts.prose(f"{seed} system", SYSTEM_TOKENS)}
    bodies = []
    for number in range(settings.conversations):
        messages = [system]
        for turn in range(settings.turns):
            text = prompts.prose(f"{seed} {number} {turn}", USER_TOKENS if turn else settings.document_tokens)
            messages = [*messages, {"role": "user", "content": text}]
            bodies.append(_chat(messages))
            answer = prompts.prose(f"{seed} {number} {turn} answer", ANSWER_TOKENS)
            messages = [*messages, {"role": "assistant", "content": answer}]
    return bodies


def hot_prefix(seed: str, settings: Settings) -> list[str]:
    """Requests with one long beginning, each with a question of its own."""
    hot = {"role": "system", "content": prompts.prose(f"{seed} hot", min(HOT_TOKENS, settings.n_ctx // 2))}
    questions = [prompts.prose(f"{seed} {number}", USER_TOKENS) for number in range(3 * settings.conversations)]
    return [_chat([hot, {"role": "user", "content": question}]) for question in questions]


def _chat(messages: Sequence[dict[str, str]]) -> str:
    options = {"max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    return json.dumps({"model": MODEL, "messages": messages, **options})


def _point(settings: Settings, system: System, name: str, bodies: list[str], turns: int) -> dict[str, float]:
    before = system.generations()
    orders = Orders(
        system.ports[name],
        bodies,
        settings.replica_users,
        settings.replica_limit_s,
        path="/v1/chat/completions",
        turns=turns,
        pause_s=settings.pause_s,
    )
    answers = loading.load(orders)
    counts = [after - earlier for earlier, after in zip(before, system.generations(), strict=True)]
    return point_figures(answers, counts)


def point_figures(answers: Sequence[Answer], counts: Sequence[int]) -> dict[str, float]:
    """Figures of a load; `counts` has the number of generations of each worker. PURE."""
    prompt_tokens = sum(answer.prompt_tokens for answer in answers)
    cached_tokens = sum(answer.cached_tokens for answer in answers)
    return {
        **figures.serving(answers),
        "cached": ratio(cached_tokens, prompt_tokens),
        "computed_tokens": prompt_tokens - cached_tokens,
        "busiest_share": ratio(max(counts), sum(counts)),
    }


@contextlib.contextmanager
def _running(settings: Settings, model: Path) -> Iterator[System]:
    """Yields the workers and both sidecars, ready, and ends them afterwards."""
    started: list[Process] = []

    def start(*command: str) -> Process:
        started.append(Process([sys.executable, "-m", *command]))
        return started[-1]

    try:
        options = ["--n-ctx", settings.n_ctx, "--kv-cells", settings.cells, "--parallel", settings.slots]
        worker = ["anyserve_worker", "--model", f"{MODEL}={model}", "--port", "0", "--threads", "1"]
        workers = [start(*worker, *map(str, options)) for _ in range(WORKERS)]
        ports = [process.wait_for(r"listening on 127\.0\.0\.1:(\d+)", START_S)[1] for process in workers]
        endpoints = [f"--anyserve-endpoint={client.HOST}:{port}" for port in ports]
        system = System({name: free_port() for name in SIDECARS}, workers)
        for name, port in system.ports.items():
            start("openai_server", "--host", client.HOST, "--port", str(port), SIDECARS[name], *endpoints)
        for port in system.ports.values():
            _wait_until(partial(_is_ready, port), f"a first answer on port {port}")
        _warm_up(system)
        yield system
    finally:
        for process in reversed(started):
            process.end()


def _warm_up(system: System) -> None:
    """Sends prompts until each worker has computed some, so that it has paid its one-time costs."""
    number = 0

    def is_warm() -> bool:
        nonlocal number
        number += 1
        for port in system.ports.values():
            body = {"model": MODEL, "prompt": prompts.short("warm", number), "max_tokens": 8}
            client.post(port, "/v1/completions", body, START_S)
        return min(system.generations()) >= 2

    _wait_until(is_warm, "an answer of each worker")


def _is_ready(port: int) -> bool:
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": 1}
    with contextlib.suppress(OSError):
        return client.post(port, "/v1/completions", body, START_S)[0] == 200
    return False


def _wait_until(is_true: Callable[[], bool], event: str) -> None:
    deadline = time.monotonic() + START_S
    while not is_true():
        if time.monotonic() > deadline:
            raise Fail(f"{event} did not come within {START_S:.0f} s")
        time.sleep(0.05)
