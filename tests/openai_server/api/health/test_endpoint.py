from typing import Any

import pytest

from openai_server.api.health.endpoint import HEALTH, LIVE, READY
from openai_server.core.errors import BackendError, ShuttingDown, Unavailable
from tests.openai_server.api.fakes import request_context, services


class FakeCatalog:
    def __init__(self, error: BackendError | None = None) -> None:
        self._error = error

    async def check_default(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("endpoint", [LIVE, READY, HEALTH])
async def test_probes_succeed_with_a_ready_backend(endpoint: Any) -> None:
    response = await endpoint.handler(services(catalog=FakeCatalog(), store=None))(request_context())
    assert response.body == b'{"status":"ok"}'


@pytest.mark.parametrize("endpoint", [READY, HEALTH])
async def test_readiness_fails_without_a_backend_or_while_draining(endpoint: Any) -> None:
    failing = services(catalog=FakeCatalog(BackendError("UNAVAILABLE", "secret")))
    with pytest.raises(Unavailable) as unavailable:
        await endpoint.handler(failing)(request_context())
    assert "secret" not in unavailable.value.message
    drained = services(catalog=FakeCatalog())
    handler = endpoint.handler(drained)
    drained.draining = True
    with pytest.raises(ShuttingDown):
        await handler(request_context())


async def test_liveness_succeeds_while_draining() -> None:
    assert (await LIVE.handler(services(draining=True))(request_context())).status_code == 200
