"""Azure's clients: the paths of the `openai` package's AzureOpenAI, and the key in the header `api-key`."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import AuthenticationError, AzureOpenAI, NotFoundError, OpenAI

from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2

VERSION = "2025-04-01-preview"
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
KEY = "azure-key"


@pytest.fixture(scope="module")
def url(worker_address: str) -> Iterator[str]:
    with servers.sidecar(worker_address, "--api-key", KEY) as (_, url):
        yield url


def azure(url: str, key: str = KEY, **options: Any) -> AzureOpenAI:
    return AzureOpenAI(azure_endpoint=url, api_key=key, api_version=VERSION, max_retries=0, **options)


@pytest.mark.parametrize("deployment", [None, SMOLLM2])
def test_the_model_is_a_deployment(url: str, deployment: str | None) -> None:
    with azure(url, azure_deployment=deployment) as client:
        assert client.chat.completions.create(model=SMOLLM2, messages=MESSAGES, max_tokens=2).model == SMOLLM2
        stream = client.chat.completions.create(model=SMOLLM2, messages=MESSAGES, max_tokens=2, stream=True)
        assert {chunk.model for chunk in stream} == {SMOLLM2}
        assert client.completions.create(model=SMOLLM2, prompt="hi", max_tokens=2).model == SMOLLM2
        assert len(client.embeddings.create(model=SMOLLM2, input="hi").data) == 1


def test_models_are_not_below_a_deployment(url: str) -> None:
    with azure(url) as client:
        assert SMOLLM2 in [model.id for model in client.models.list()]
        assert client.models.retrieve(SMOLLM2).id == SMOLLM2
        with pytest.raises(NotFoundError) as unknown:
            client.chat.completions.create(model="none", messages=MESSAGES)
        assert unknown.value.code == "model_not_found"


def test_the_newer_paths_need_no_version(url: str) -> None:
    with OpenAI(base_url=f"{url}/openai/v1/", api_key=KEY, max_retries=0) as client:
        assert SMOLLM2 in [model.id for model in client.models.list()]
        assert client.chat.completions.create(model=SMOLLM2, messages=MESSAGES, max_tokens=2).model == SMOLLM2


def test_a_wrong_key_is_refused(url: str) -> None:
    with azure(url, "wrong") as client, pytest.raises(AuthenticationError):
        client.models.list()
