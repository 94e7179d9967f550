"""Which endpoint a path leads to, and the name of that endpoint in metrics and the access log."""

import logging

import pytest

from tests.wire.exposition import Scrape
from tests.wire.fake_worker import FakeWorker
from tests.wire.sidecar import Sidecar, running

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES = "/v1/responses"
MODEL, OTHER = "/v1/models/{model}", "other"
DEPLOYMENTS = ("/deployments/tiny", "/deployments/org/name", "/deployments/chat")
BODY = {"messages": [{"role": "user", "content": "x"}]}
MODELS = ["tiny", "org/name", "chat", "org/chat"]


async def request_labels(sidecar: Sidecar) -> list[tuple[str, str, str]]:
    """Returns endpoint, model and status of every request so far, other than those for metrics."""
    series = Scrape((await sidecar.get("/metrics")).body).series("openai_server_requests_total")
    return [
        (labels["endpoint"], labels["model"], labels["status"]) for labels in series if labels["endpoint"] != "/metrics"
    ]


REQUESTS = [
    *(("POST", path, CHAT, 200) for path in ("/v1/chat/completions", "/chat/completions")),
    *(
        ("POST", f"{prefix}/{model}/{name}", CHAT, 200)
        for model in ("tiny", "org/name", "org/chat")
        for prefix in ("", "/v1/engines", "/engines", "/v1/models", "/models")
        for name in ("chat/completions", "chat")
    ),
    ("POST", "/chat/chat", CHAT, 200),
    ("POST", "/v1/models/org/name/completions", COMPLETIONS, 400),
    ("POST", "/models/tiny/embeddings", EMBEDDINGS, 400),
    *(
        ("POST", f"{prefix}/responses", RESPONSES, 400)
        for prefix in ("", "/v1", "/tiny", "/org/name", "/v1/engines/tiny", "/engines/tiny", "/v1/models/tiny")
    ),
    ("GET", "/v1/responses", RESPONSES, 405),
    *(
        (method, f"{prefix}/responses/resp_1", "/v1/responses/{response_id}", 404)
        for prefix in ("", "/v1", "/openai", "/openai/v1")
        for method in ("GET", "HEAD", "DELETE")
    ),
    ("GET", "/v1/responses/resp_1/input_items", "/v1/responses/{response_id}/input_items", 404),
    ("GET", "/v1/responses/compact", "/v1/responses/compact", 405),
    ("POST", "/openai/v1/conversations", "/v1/conversations", 404),
    ("POST", "/conversations/conv_1", "/v1/conversations/{conversation_id}", 404),
    ("GET", "/v1/conversations/conv_1/items", "/v1/conversations/{conversation_id}/items", 404),
    ("DELETE", "/v1/conversations/conv_1/items/a", "/v1/conversations/{conversation_id}/items/{item_id}", 404),
    ("POST", "/none/chat", CHAT, 404),
    ("POST", "/v1/models/none/chat/completions", CHAT, 404),
    *(
        ("POST", path, "/v1/messages", 400)
        for path in ("/v1/messages", "/messages", "/tiny/messages", "/org/name/messages")
    ),
    ("GET", "/v1/messages", "/v1/messages", 405),
    ("GET", "/messages/count_tokens", "/v1/messages/count_tokens", 405),
    ("GET", "/v1/models/tiny", MODEL, 200),
    ("HEAD", "/models/org/chat", MODEL, 200),
    ("GET", "/v1/models/tiny/chat/completions", MODEL, 404),
    ("POST", "/v1/models/tiny", MODEL, 405),
    ("DELETE", "/models/org/name", MODEL, 405),
    ("POST", "/models/chat", MODEL, 405),
    ("OPTIONS", "/tiny/chat", CHAT, 405),
    ("GET", "/tiny/chat/completions", CHAT, 405),
    ("OPTIONS", "/v1/completions", COMPLETIONS, 405),
    ("HEAD", "/v1/models", "/v1/models", 200),
    ("PUT", "/models", "/v1/models", 405),
    ("POST", "/v1/rerank", "/v1/rerank", 400),
    ("POST", "/rerank", "/v1/rerank", 400),
    ("POST", "/tokenize", "/tokenize", 400),
    ("POST", "/detokenize", "/detokenize", 400),
    ("POST", "/apply-template", "/apply-template", 200),
    ("GET", "/tokenizer_info", "/tokenizer_info", 200),
    ("POST", "/v1/chat/completions/input_tokens", "/v1/chat/completions/input_tokens", 400),
    ("POST", "/chat/completions/input_tokens", "/v1/chat/completions/input_tokens", 400),
    *(("POST", f"/openai{path}/chat/completions", CHAT, 200) for path in ("", "/v1", *DEPLOYMENTS)),
    *(("POST", f"/openai{path}/completions", COMPLETIONS, 400) for path in ("", "/v1", *DEPLOYMENTS)),
    *(("POST", f"/openai{path}/embeddings", "/v1/embeddings", 400) for path in ("", "/v1", *DEPLOYMENTS)),
    ("GET", "/openai/models", "/v1/models", 200),
    ("GET", "/openai/v1/models", "/v1/models", 200),
    ("GET", "/openai/v1/models/org/name", MODEL, 200),
    ("GET", "/openai/deployments/tiny/chat/completions", CHAT, 405),
    ("POST", "/openai/deployments/none/chat/completions", CHAT, 404),
    ("GET", "/openapi.json", "/openapi.json", 200),
    ("POST", "/readyz", "/readyz", 405),
    *(
        (method, path, OTHER, 404)
        for method in ("GET", "POST")
        for path in (
            *("/", "/v1", "/chat", "/v1/chat", "/v1/chat/", "/v1/tiny/chat", "/tiny/chat/", "//chat", "/engines/chat"),
            *("/v1/v1/chat/completions", "/v1/chat/completions/x", "/tiny/v1/chat/completions", "/v1/health"),
            *("/x/tokenize", "/x/v1/embeddings", "/v1/audio/speech", "/" + "x" * 300),
        )
    ),
]


@pytest.mark.parametrize(("method", "path", "endpoint", "status"), REQUESTS)
async def test_a_request_is_counted_and_logged_under_the_endpoint_that_answers(
    method: str, path: str, endpoint: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(FakeWorker(models=MODELS)) as sidecar:
        for _ in range(2):
            assert (await sidecar.send(method, path, BODY)).status == status
        [(name, _, counted_status)] = await request_labels(sidecar)
    assert (name, counted_status) == (endpoint, str(status))
    lines = [record.__dict__["fields"] for record in caplog.records if record.name == "openai_server.access"]
    expected = [] if endpoint == "/readyz" else [endpoint] * 2
    assert [line["endpoint"] for line in lines] == expected


async def test_an_unknown_path_is_counted_as_other() -> None:
    async with running(FakeWorker(), admin_port=0) as sidecar:
        assert (await sidecar.get("/livez")).status == 404
        sidecar.app.observer.report()
        assert b'endpoint="other"' in sidecar.app.observer.metrics.text()


# ---- The model in the path


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "path"), [("tiny", "/tiny/chat"), ("org/name", "/org/name/chat"), ("chat", "/chat/chat")]
)
async def test_a_chat_at_hayhooks_path_is_served(model: str, path: str, stream: bool) -> None:
    async with running(FakeWorker(models=MODELS)) as sidecar:
        reply = await sidecar.send("POST", path, {**BODY, "stream": stream})
        response = reply.events[0] if stream else reply.json
        assert (response["model"], response["object"]) == (
            model,
            "chat.completion.chunk" if stream else "chat.completion",
        )
        contradicted = await sidecar.send("POST", path, {**BODY, "model": "other"})
        assert (contradicted.status, contradicted.error["param"]) == (400, "model")


async def test_the_openapi_document_names_the_paths_with_a_model() -> None:
    async with running(FakeWorker()) as sidecar:
        described = (await sidecar.get("/openapi.json")).json["info"]["description"]
    for path in ("/{model}/chat/completions", "/{model}/chat,", "/v1/engines/{model}/", "/v1/models/{model}/"):
        assert path in described


async def test_a_chat_by_path_needs_a_key() -> None:
    async with running(FakeWorker(), api_key=("right",)) as sidecar:
        assert (await sidecar.send("POST", "/tiny/chat", BODY)).status == 401
        headers = {"authorization": "Bearer right"}
        assert (await sidecar.send("POST", "/tiny/chat", BODY, headers)).status == 200
