"""A growing conversation computes only what is new, in the APIs that agents use, with real models."""

import json
import urllib.request
from typing import Any

import pytest

from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair

MODELS = pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
BILLING = "x-anthropic-billing-header: cc_version=2.1.332.{n}; cc_entrypoint=cli; cch={n:05x};"
TAIL = 8
"""Tokens at the end of a prompt that the next one may not repeat: the beginning of the answer."""


def post(pair: Pair, path: str, **body: Any) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"content-type": "application/json"}
    with opener.open(urllib.request.Request(pair.url + path, json.dumps(body).encode(), headers), timeout=120) as reply:
        return json.loads(reply.read())


@MODELS
def test_messages_with_changing_billing_blocks(pair: Pair, model: str) -> None:
    """System messages inside of the conversation stay at their places."""
    messages: list[Any] = [
        {"role": "user", "content": f"{model}: name a colour. " * 20},
        {"role": "system", "content": "The time is 10:00. " * 5},
    ]
    before = 0
    for n in range(3):
        system = [{"type": "text", "text": text} for text in (BILLING.format(n=n), f"You are brief. {model}. " * 20)]
        body = {"model": model, "system": system, "messages": messages, "temperature": 0}
        answer = post(pair, "/v1/messages", **body, max_tokens=8)
        usage = answer["usage"]
        assert usage["cache_read_input_tokens"] >= before - TAIL
        before = usage["input_tokens"] + usage["cache_read_input_tokens"]
        assert post(pair, "/v1/messages/count_tokens", **body) == {"input_tokens": before}
        messages += [{"role": "assistant", "content": answer["content"] or "Red."}, {"role": "user", "content": "And?"}]
        if n == 1:
            messages.append({"role": "system", "content": "The time is 11:00."})


@MODELS
def test_responses_with_messages_of_a_developer(pair: Pair, model: str) -> None:
    items: list[Any] = [
        {"role": "developer", "content": f"Be brief. {model}. " * 20},
        {"role": "user", "content": "Name an animal. " * 20},
        {"role": "developer", "content": "The time is 10:00. " * 5},
    ]
    before = 0
    for n in range(3):
        answer = post(pair, "/v1/responses", model=model, input=items, max_output_tokens=8, temperature=0)
        usage = answer["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] >= before - TAIL
        before = usage["input_tokens"]
        items += [*answer["output"], {"role": "user", "content": f"And animal {n}?"}]
