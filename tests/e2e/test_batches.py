"""Batches over the whole pair with real models: their answers are those of interactive requests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2
from tests.models import minilm_path
from tests.ops.client import get

MINILM = "minilm"
QUESTIONS = ("Name three colours.", "What is the capital of France?", "Count to five.")
TOKENS = 12
TIMEOUT = 120.0


def bodies(url: str) -> list[dict[str, Any]]:
    """Requests with one answer each, whatever else runs."""
    greedy = {"model": SMOLLM2, "temperature": 0}
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    by_url: dict[str, list[dict[str, Any]]] = {
        "/v1/chat/completions": [{**greedy, "messages": chat, "max_tokens": TOKENS} for chat in chats],
        "/v1/completions": [{**greedy, "prompt": question, "max_tokens": TOKENS} for question in QUESTIONS],
        "/v1/responses": [{**greedy, "input": question, "max_output_tokens": TOKENS} for question in QUESTIONS],
        "/v1/messages": [{**greedy, "messages": chat, "max_tokens": TOKENS} for chat in chats],
        "/v1/embeddings": [{"model": MINILM, "input": [question, "x"]} for question in QUESTIONS],
    }
    return by_url[url]


def essence(url: str, body: Any) -> Any:
    """The part of an answer that doesn't depend on when it was generated."""
    match url:
        case "/v1/chat/completions" | "/v1/completions":
            return body["choices"], body["usage"]["completion_tokens"]
        case "/v1/responses":
            return body["output"][0]["content"], body["status"], body["usage"]["output_tokens"]
        case "/v1/messages":
            return body["content"], body["stop_reason"], body["usage"]["output_tokens"]
    return [item["embedding"] for item in body["data"]]


@pytest.fixture(scope="module")
def client(exact_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """A client of a sidecar with a store, and with a worker of each model."""
    folder: Path = tmp_path_factory.mktemp("store")
    encoder = ("--model", f"{MINILM}={minilm_path()}", "--threads", "1")
    with (
        servers.worker(*encoder) as (_, address),
        servers.sidecar(f"{exact_address},{address}", "--store", f"sqlite:///{folder}/store.db") as (_, url),
    ):
        servers.eventually(lambda: get(url, f"/v1/models/{MINILM}").status == 200)
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT) as client:
            yield client


@pytest.mark.parametrize(
    "url", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"]
)
def test_lines_have_the_answers_of_interactive_requests(client: OpenAI, url: str) -> None:
    requests = bodies(url)
    lines = [
        json.dumps({"custom_id": str(n), "method": "POST", "url": url, "body": body}) for n, body in enumerate(requests)
    ]
    file = client.files.create(file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch")
    fields: Any = {"endpoint": url, "completion_window": "24h", "input_file_id": file.id}
    batch = client.batches.create(**fields)
    servers.eventually(lambda: client.batches.retrieve(batch.id).status == "completed", TIMEOUT)
    batch = client.batches.retrieve(batch.id)
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    answered = {
        line["custom_id"]: line["response"]["body"]
        for line in map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    }
    assert set(answered) == {str(n) for n in range(len(requests))}
    for n, body in enumerate(requests):
        interactive: Any = client.post(url.removeprefix("/v1"), body=body, cast_to=object)
        expected = essence(url, interactive)
        if url == "/v1/embeddings":
            expected = [pytest.approx(vector, abs=1e-5) for vector in expected]
        assert essence(url, answered[str(n)]) == expected, n
    assert batch.usage is not None
    usages = [body["usage"] for body in answered.values()]
    n_output = sum(usage.get("output_tokens", usage.get("completion_tokens", 0)) for usage in usages)
    assert batch.usage.output_tokens == n_output
    assert batch.usage.total_tokens == batch.usage.input_tokens + n_output
