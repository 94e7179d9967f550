"""Results in the form that a run writes, small enough to read."""

from typing import Any

from benchmarks import batches, forms, neighbour, raw, replicas, samplers, serving, store, translator
from benchmarks.databases import KINDS, POSTGRESQL, SQLITE
from benchmarks.systems import LLAMA_SERVER, OURS

STAMP: dict[str, Any] = {
    "date": "2026-01-02 03:04 UTC",
    "commit": "0123456789ab",
    "cpu": "A Processor",
    "cores": 2,
    "memory_gib": 8.0,
    "kernel": "Linux 6",
    "python": "3.11.7",
    "packages": {"grpcio": "1.80.0"},
    "load_before": 0.1,
    "wake_up_us": 12,
    "seconds": 60,
}


def point(tokens_per_s: float, **more: float) -> dict[str, float]:
    latencies = {"ttft_p50_ms": 10.0, "ttft_p95_ms": 20.0, "gap_p50_ms": 1.0, "gap_p99_ms": 2.0}
    return {"tokens_per_s": tokens_per_s, **latencies, "errors": 0.0, "cut": 0.0, **more}


def serving_part() -> dict[str, Any]:
    rounds: serving.Rounds = {
        "short, 1": {
            OURS: [point(110, cpu_s_worker=1.5, cpu_s_sidecar=0.25), point(230)],
            LLAMA_SERVER: [point(100, cpu_s_server=1.0), point(200)],
            serving.RAW: [point(125), point(250)],
        },
        "short, 8": {OURS: [point(300)], LLAMA_SERVER: [point(200, cut=3)], serving.RAW: [point(400)]},
        "n=8": {OURS: [point(100, choices=8)], LLAMA_SERVER: [point(10, choices=1)]},
        "long arrival": {OURS: [{"gap_p50_ms": 10.0, "gap_p99_ms": 50.0, "ttft_ms": 900.0, "errors": 0.0}]},
        "shared prefix": {OURS: [point(50, cold_ttft_ms=2000, warm_ttft_ms=40, warm_of_cold=0.02)]},
    }
    setup = {
        "model": "m.gguf",
        "threads": 2,
        "context": 512,
        "cells": 1024,
        "slots": 4,
        "rounds": 2,
        "python_rounds": 1,
    }
    return {
        "setup": {**setup, "new_tokens": 48},
        "problems": {"examples/server": "it ended\nwith more lines"},
        "rounds": rounds,
        "workloads": serving.summary(rounds),
    }


def raw_part() -> dict[str, Any]:
    def rate(layout: str, value: float, **more: int) -> dict[str, Any]:
        return {"layout": layout, "tokens_per_s": value, **more}

    rounds = [
        [rate("a", 100 + n, batch=1, context=75), rate("b", 90, batch=1, context=75), rate("a", 9, chunk=32, context=0)]
        for n in (0, 2, 7)
    ]
    return {"steps": 48, "threads": 2, **raw.summary(rounds)}


def translator_part() -> dict[str, Any]:
    def streams(rate: float) -> dict[str, Any]:
        figures = {"tokens_per_cpu_s": rate, "tokens_per_s": 10.0, "chunks_per_token": 1.0, "cpu_us_per_chunk": 5.0}
        return {"median": figures, "to_bare": {"tokens_per_cpu_s": rate / 200}}

    return {
        "points": {
            "start": {way: {"median": {"first_answer_s": 0.5}, "to_bare": {}} for way in translator.WAYS},
            "paced, 64": {way: streams(100.0) for way in translator.WAYS},
            "saturated, 64": {way: streams(50.0) for way in translator.WAYS},
        },
        "forms": forms_part(),
    }


def forms_part() -> dict[str, Any]:
    def point(slow: float, **more: float) -> dict[str, float]:
        return {"tokens_per_cpu_s": 1000.0 / slow, "cpu_ms_per_request": 2.0 * slow, "errors": 0.0, **more}

    slowness = {forms.CHAT: 1.0, forms.RESPONSES: 1.25, forms.MESSAGES: 0.8}
    streams = {form: [point(slow), point(3 * slow)] for form, slow in slowness.items()}
    streams[forms.MESSAGES][0]["missing"] = 7.0
    rounds = {"saturated, 64": streams, "unary": {form: [point(slow)] for form, slow in slowness.items()}}
    return {"rounds": rounds, "points": forms.summary(rounds)}


def neighbour_part() -> dict[str, Any]:
    rounds = {
        f"{condition}, 1": {
            neighbour.AUTO: [point(90), point(190)],
            f"{OURS}, 1": [point(100), point(200)],
            f"{OURS}, 2": [point(50), point(60)],
            f"{LLAMA_SERVER}, 1": [point(45), point(95)],
        }
        for condition in (neighbour.QUIET, neighbour.QUOTA)
    }
    return {
        "setup": {"processors": 2, "quota": 1.5, "how": "a control group"},
        "problems": {},
        "rounds": rounds,
        "points": neighbour.summary(rounds),
        "reaction": {"1": {"bin_s": 0.25, "rates": [1.0], "changes": [5.0], "seconds": [0.5, None]}},
    }


def samplers_part() -> dict[str, Any]:
    def on_logits(name: str, us: float) -> dict[str, Any]:
        return {"sampler": name, "n_vocab": 1000, "prepare_ms": 0.1, "us": us, "chain_us": 3 * us}

    def step(name: str, kind: str, ms: float) -> dict[str, Any]:
        times = {"prepare_ms": 0.1, "run_ms": ms, "sample_ms": ms / 10, "tokens_per_s": 8e3 / ms, "of_greedy": ms / 20}
        return {"sampler": name, "samplers": kind, **times}

    rounds = [
        [
            *(on_logits(name, us * slow) for name, us in (("greedy", 4.0), ("typical_p", 100.0))),
            *(step("greedy", kind, 20.0 * slow) for kind in ("ours", "chain")),
            *(step("typical_p", kind, ms * slow) for kind, ms in (("ours", 22.0), ("chain", 90.0))),
        ]
        for slow in (1.0, 1.5, 1.0)
    ]
    setup = {"model": "a.gguf", "threads": 2, "prompt": 1900, "choices": 8, "steps": 32}
    return {**setup, **samplers.summary(rounds)}


def replicas_part() -> dict[str, Any]:
    def round_(tokens_per_s: float, cached: float, busiest: float) -> dict[str, float]:
        return point(tokens_per_s, cached=cached, computed_tokens=10_000 * (1 - cached), busiest_share=busiest)

    by_name = {
        replicas.AFFINITY: [round_(120, 0.9, 0.4), round_(150, 0.8, 0.5)],
        replicas.LOAD_ALONE: [round_(100, 0.7, 0.35), round_(100, 0.6, 0.37)],
    }
    setup = {"model": "a.gguf", "workers": 3, "users": 6, "conversations": 12, "turns": 4, "pause_s": 1.0, "rounds": 2}
    rounds = {replicas.CONVERSATIONS: by_name, replicas.HOT: by_name}
    return {
        "setup": {**setup, "system_tokens": 200, "document_tokens": 400, "hot_tokens": 1000},
        "rounds": rounds,
        "points": replicas.summary(rounds),
    }


def store_part() -> dict[str, Any]:
    def percentiles(p50: float) -> dict[str, float]:
        return {"p50_ms": p50, "p95_ms": 2 * p50, "p99_ms": 3 * p50}

    def round_(*p50: float) -> dict[str, dict[str, float]]:
        names = (store.NO_STORE, SQLITE, POSTGRESQL)
        kinds = (store.STORED, store.PLAIN_CHAT)
        return {f"{kind}, {name}": percentiles(p50[names.index(name)]) for kind in kinds for name in names}

    def pauses(longest: float) -> dict[str, float]:
        figures = {"p50_ms": 0.2, "p999_ms": 2.0, "max_ms": longest}
        return {f"{kind}_{name}": value for kind in ("loop", "write") for name, value in figures.items()}

    rounds = [store.added(round_(*p50)) for p50 in ((2.0, 3.0, 7.0), (4.0, 5.5, 11.0))]
    filled = {
        "fill_s": 9.0,
        "mib": 300.0,
        "reads": {"GET response": percentiles(1.0)},
        "quiet": pauses(4.0),
        "sweep": {**pauses(60.0), "seconds": 30.0, "swept": 200.0},
    }
    commits = {"fsync_p50_ms": 2.0, "fsync_p99_ms": 5.0, "commit_p50_ms": 4.5, "commit_without_fsync_p50_ms": 0.5}
    return {
        "setup": {"objects": 1000, "expired": 200, "calls": 400},
        "rounds": rounds,
        "latency": store.summary(rounds),
        "commits": {**commits, "commit_fsync_p50_ms": 4.0},
        "filled": dict.fromkeys(KINDS, filled),
        "memory": {f"{name}_mib": 50.0 for name in (store.NO_STORE, *KINDS)},
    }


def batches_part() -> dict[str, Any]:
    def clients(factor: float) -> dict[str, float]:
        names = ("ttft_p50_ms", "ttft_p95_ms", "gap_p50_ms", "gap_p95_ms")
        return {**dict.fromkeys(names, 20.0 * factor), "tokens_per_s": 50.0 / factor}

    rounds = {
        batches.ALONE: [clients(1.0), clients(2.0)],
        batches.BESIDE: [{**clients(1.05), "batch_tokens_per_s": 30.0}, {**clients(2.5), "batch_tokens_per_s": 50.0}],
        batches.CLOSED_LOOP: [{"tokens_per_s": 200.0}, {"tokens_per_s": 100.0}],
        batches.BATCH: [{"tokens_per_s": 196.0}, {"tokens_per_s": 96.0}],
    }
    setup = {"clients": 4, "requests": 60, "prompt_tokens": 150, "new_tokens": 48, "lines": 1000, "lines_alone": 320}
    return {
        "setup": {**setup, "slots": 32, "under_way": 64, "rounds": 2},
        "rounds": rounds,
        "points": batches.summary(rounds),
    }


def results() -> dict[str, Any]:
    parts = {
        "raw": raw_part(),
        "serving": serving_part(),
        "translator": translator_part(),
        "neighbour": neighbour_part(),
        "samplers": samplers_part(),
        "replicas": replicas_part(),
        "store": store_part(),
        "batches": batches_part(),
    }
    return {name: {"stamp": STAMP, "figures": figures} for name, figures in parts.items()}
