import json
from types import SimpleNamespace
from typing import Any

import pytest

from openai_server.api.models.endpoint import MAX_TIME, MODEL, MODELS, created
from openai_server.core.errors import APIError, BackendError
from tests.openai_server.api.fakes import request_context, services


def fake_model(name: str) -> Any:
    return SimpleNamespace(name=name, parameters={"loaded_at": "7.5"}, tasks=["embed"], context_length=9)


class FakeCatalog:
    def __init__(self, error: BackendError | None = None) -> None:
        self._error = error

    async def all(self) -> list[Any]:
        return [await self.resolve("a"), await self.resolve("org/b")]

    def aliases(self) -> dict[str, str]:
        return {"claude-a": "a", "claude-gone": "gone"}

    async def resolve(self, name: str) -> Any:
        if self._error is not None:
            raise self._error
        return fake_model(name)


async def test_models_are_listed_and_found_by_name() -> None:
    fake_services = services(catalog=FakeCatalog())
    listed: Any = await MODELS.handler(fake_services)(request_context())
    assert [model["id"] for model in json.loads(listed.body)["data"]] == ["a", "org/b"]
    single: Any = await MODEL.handler(fake_services)(request_context(parameters={"model": "org/b"}))
    assert json.loads(single.body) == json.loads(listed.body)["data"][1]
    assert json.loads(single.body)["created"] == 7


def described(id: str, name: str) -> dict[str, Any]:
    """Returns a model in Anthropic's form."""
    return {
        "type": "model",
        "id": id,
        "display_name": name,
        "created_at": "1970-01-01T00:00:07Z",
        "lifecycle": "active",
        "max_input_tokens": 9,
        "max_tokens": None,
        "capabilities": None,
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
    }


ANTHROPIC = {"headers": [(b"anthropic-version", b"2023-06-01")]}


async def test_clients_of_anthropics_api_get_its_form_with_aliases() -> None:
    fake_services = services(catalog=FakeCatalog())
    listed: Any = await MODELS.handler(fake_services)(request_context(scope=ANTHROPIC))
    assert json.loads(listed.body) == {
        "data": [described("a", "a"), described("org/b", "org/b"), described("claude-a", "a")],
        "has_more": False,
        "first_id": "a",
        "last_id": "claude-a",
    }
    single: Any = await MODEL.handler(fake_services)(request_context(scope=ANTHROPIC, parameters={"model": "org/b"}))
    assert json.loads(single.body) == described("org/b", "org/b")
    second = {**ANTHROPIC, "query_string": b"beta=true&limit=1&after_id=a"}
    listed = await MODELS.handler(fake_services)(request_context(scope=second))
    assert [model["id"] for model in json.loads(listed.body)["data"]] == ["org/b"]
    stages = {**ANTHROPIC, "query_string": b"lifecycle[]=active&lifecycle[]=retired"}
    listed = await MODELS.handler(fake_services)(request_context(scope=stages))
    assert len(json.loads(listed.body)["data"]) == 3


async def test_codex_gets_an_array_of_models() -> None:
    handler = MODELS.handler(services(catalog=FakeCatalog()))
    for query, has_models in ((b"client_version=0.171.0", True), (b"", False)):
        listed: Any = await handler(request_context(scope={"headers": [], "query_string": query}))
        payload = json.loads(listed.body)
        assert ("models" in payload, payload.get("models", [])) == (has_models, [])
        assert len(payload["data"]) == 2


@pytest.mark.parametrize("endpoint", [MODELS, MODEL])
async def test_an_unavailable_backend_is_a_503(endpoint: Any) -> None:
    handler = endpoint.handler(services(catalog=FakeCatalog(BackendError("UNAVAILABLE", "gone"))))
    with pytest.raises(APIError) as caught:
        await handler(request_context(parameters={"model": "a"}))
    assert caught.value.status == 503


@pytest.mark.parametrize(
    ("loaded_at", "time"),
    [("12", 12), ("12.9", 12), ("", 5), ("-1", 5), ("nan", 5), ("inf", 5), ("1e99", 5), (str(MAX_TIME), 5), ("x", 5)],
)
def test_an_invalid_time_is_replaced_by_that_of_the_start(loaded_at: str, time: int) -> None:
    assert created(loaded_at, services()) == time
