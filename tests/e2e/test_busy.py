"""Sends all kinds of requests at once, in one batch, streaming and not, with several choices, and checks each
response."""

import json
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import OpenAI

from tests.e2e.conftest import SMOLLM2, Pair
from tests.e2e.test_fields import MESSAGES, TOOLS, WEATHER

SCHEMA = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER["parameters"]}}


def streamed(client: OpenAI, **body: Any) -> list[str]:
    """Streams a chat, and returns the content of each choice."""
    texts = [""] * body.get("n", 1)
    for chunk in client.chat.completions.create(model=SMOLLM2, messages=MESSAGES, stream=True, **body):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts


def schema(client: OpenAI) -> None:
    for text in streamed(client, n=2, temperature=1.3, response_format=SCHEMA, max_tokens=120):
        assert set(json.loads(text)) == {"city", "unit"}


def regex(client: OpenAI) -> None:
    for text in streamed(client, n=3, temperature=1.3, extra_body={"regex": r"[a-z]{4}-\d\d"}):
        assert re.fullmatch(r"[a-z]{4}-\d\d", text)


def call(client: OpenAI) -> None:
    body: Any = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "n": 2, "max_tokens": 200}
    completion = client.chat.completions.create(model=SMOLLM2, messages=MESSAGES, temperature=1.3, **body)
    for choice in completion.choices:
        (tool_call,) = choice.message.tool_calls or []
        assert tool_call.type == "function"
        assert isinstance(json.loads(tool_call.function.arguments), dict)


def logprobs(client: OpenAI) -> None:
    completion = client.chat.completions.create(
        model=SMOLLM2, messages=MESSAGES, logprobs=True, top_logprobs=3, n=2, max_tokens=12
    )
    for choice in completion.choices:
        assert choice.logprobs is not None
        # a token may be a part of a character
        tokens = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content or [])
        assert tokens.decode(errors="replace") == choice.message.content


def scoring(client: OpenAI) -> None:
    prompt = "The fox ran over the hill. " * 20
    completion = client.completions.create(model=SMOLLM2, prompt=prompt, echo=True, logprobs=0, max_tokens=0)
    scores = completion.choices[0].logprobs
    assert scores is not None
    assert "".join(scores.tokens or []) == prompt
    finite = [score for score in scores.token_logprobs or [] if score is not None]
    assert all(math.isfinite(score) and score <= 0 for score in finite)


def best(client: OpenAI) -> None:
    completion = client.completions.create(model=SMOLLM2, prompt="Paris is", best_of=4, n=2, max_tokens=8)
    assert len(completion.choices) == 2


def embedding(client: OpenAI) -> None:
    response = client.embeddings.create(model=SMOLLM2, input=["a fox", "a crow"], encoding_format="float")
    assert [len(item.embedding) for item in response.data] == [576, 576]


def dry(client: OpenAI) -> None:
    (text,) = streamed(client, max_tokens=20, extra_body={"dry_multiplier": 0.8, "xtc_probability": 0.5})
    assert text


KINDS: list[Callable[[OpenAI], None]] = [schema, regex, call, logprobs, scoring, best, embedding, dry]


def test_all_kinds_of_requests_at_once_get_their_responses(pair: Pair) -> None:
    with (
        OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(2 * len(KINDS)) as threads,
    ):
        for future in [threads.submit(kind, client) for kind in KINDS * 2]:
            future.result()
