"""Compares the API forms: streams of `/v1/chat/completions`, `/v1/responses` and `/v1/messages` from one sidecar.

A machine's speed varies from second to second, so the forms take turns at each burst.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import pace, translator
from benchmarks.orders import Orders
from benchmarks.settings import Settings
from benchmarks.stats import interleaved, medians, paired_ratios
from benchmarks.systems import MODEL
from benchmarks.translator import Figures, Sidecar

CHAT, RESPONSES, MESSAGES = "chat", "Responses", "Messages"


@dataclass(frozen=True)
class Form:
    """`body`: the fields of a request with this prompt and number of tokens, besides `model` and `stream`. `copies`:
    how often a stream has each token; with more than one, its last events repeat the text."""

    path: str
    body: Callable[[str, int], dict[str, Any]]
    copies: int = 1


def _chat(prompt: str, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}


def _responses(prompt: str, tokens: int) -> dict[str, Any]:
    return {"input": prompt, "max_output_tokens": tokens}


FORMS = {
    CHAT: Form("/v1/chat/completions", _chat),
    # The text comes in deltas and in the ends of the text, the part, the item and the response.
    RESPONSES: Form("/v1/responses", _responses, copies=5),
    MESSAGES: Form("/v1/messages", _chat),
}


def measure(settings: Settings) -> dict[str, Any]:
    rounds: dict[str, dict[str, list[Figures]]] = {}
    with (
        translator.fake_worker(translator.STEP_BATCHES) as grpc_port,
        translator.sidecar(translator.STEP_BATCHES, grpc_port) as (server, _),
    ):
        # The first round only warms up.
        for number, form in interleaved(list(FORMS), settings.form_rounds + 1):
            print(f"forms, round {number}: {form}", flush=True)
            for name, found in _round(server, FORMS[form], settings).items():
                if number:
                    rounds.setdefault(name, {}).setdefault(form, []).append(found)
    return {"rounds": rounds, "points": summary(rounds)}


def summary(rounds: Mapping[str, Mapping[str, Sequence[Figures]]]) -> dict[str, Any]:
    """Medians by point and form, and medians of the ratios to CHAT within a round. PURE."""
    return {
        name: {
            form: {"median": medians(by_form[form]), "to_chat": paired_ratios(by_form[form], by_form[CHAT])}
            for form in FORMS
        }
        for name, by_form in rounds.items()
    }


def _round(server: Sidecar, form: Form, settings: Settings) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for count in settings.form_streams:
        step_ms = translator.STEP_MS.get(count, 20.0)
        paced = max(2, round(settings.short_s * 1e3 / step_ms))
        saturated = max(2, round(settings.short_s * translator.FULL_SPEED / min(count, translator.EQUAL_FROM)))
        for name, tokens, pause_ms in (("paced", paced, step_ms), ("saturated", saturated, 0.0)):
            body = _body(form, tokens, pause_ms, stream=True)
            orders = _orders(server, form, body, count, count, settings.point_limit_s)
            found[f"{name}, {count}"] = translator.load_streams(server, orders, count * tokens)
    body = _body(form, 1, 0, stream=False)
    orders = _orders(server, form, body, settings.latency_calls, translator.UNARY_CLIENTS, settings.point_limit_s)
    found["unary"] = translator.load_unary(server, orders)
    return found


def _body(form: Form, tokens: int, step_ms: float, *, stream: bool) -> str:
    return json.dumps({"model": MODEL, "stream": stream, **form.body(pace.prompt(tokens, step_ms), tokens)})


def _orders(server: Sidecar, form: Form, body: str, requests: int, concurrency: int, limit_s: float) -> Orders:
    return Orders(server.port, [body] * requests, concurrency, limit_s, path=form.path, count=True, copies=form.copies)
