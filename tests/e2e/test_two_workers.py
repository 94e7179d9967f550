"""One sidecar with two workers that have different models: a chat model and an encoder."""

import signal

import openai
import pytest
from openai import OpenAI

from scripts.ports import free_port
from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2
from tests.models import minilm_path, smollm2_path
from tests.ops.client import get

MINILM = "minilm"


def test_each_request_reaches_the_worker_with_its_model() -> None:
    chat_model, encoder = f"{SMOLLM2}={smollm2_path()}", f"{MINILM}={minilm_path()}"
    port = free_port()
    with (
        servers.worker("--model", chat_model, "--n-ctx", "512") as (worker, chat_address),
        servers.worker("--model", encoder, "--port", str(port)) as (encoding, texts_address),
        servers.sidecar(f"{chat_address},{texts_address}", "--model-alias", f"text-embedding-3-small={MINILM}") as (
            process,
            url,
        ),
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list()] == [SMOLLM2, MINILM]
        for model in (SMOLLM2, "llamacpp"):
            chunks = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=4, stream=True
            )
            assert {chunk.model for chunk in chunks} == {SMOLLM2}
        assert client.completions.create(model=SMOLLM2, prompt="Hi", max_tokens=4).model == SMOLLM2
        for model in (MINILM, "text-embedding-3-small"):
            embedded = client.embeddings.create(model=model, input=["one", "two"])
            assert [len(item.embedding) for item in embedded.data] == [384, 384]

        assert encoding.end(signal.SIGTERM) == 0
        process.wait_for(r"lost the backend|can't reach the backend")
        with pytest.raises(openai.InternalServerError) as caught:
            client.embeddings.create(model=MINILM, input="one")
        assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "1")
        assert get(url, "/readyz").status == 200
        assert client.completions.create(prompt="Hi", model=SMOLLM2, max_tokens=4).model == SMOLLM2

        with servers.worker("--model", encoder, "--port", str(port)):
            servers.eventually(lambda: get(url, f"/v1/models/{MINILM}").status == 200)
            assert client.embeddings.create(model=MINILM, input="one").data
            assert worker.end(signal.SIGTERM) == 0
            servers.eventually(lambda: get(url, "/readyz").status == 503)
            reason = get(url, "/readyz").error
            assert reason is not None
            assert SMOLLM2 in reason["message"]
            assert client.embeddings.create(model=MINILM, input="one").data
