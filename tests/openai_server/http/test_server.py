"""What a signal does to a server."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from openai_server.http import server
from openai_server.telemetry import request_context as current
from openai_server.telemetry.record import Record


def test_a_signal_during_a_request_is_logged_without_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []
    monkeypatch.setattr(server.log, "info", lambda *_: ids.append(current.request_id()))
    app: Any = SimpleNamespace(routes=SimpleNamespace(draining=False))
    serving = server.Server(uvicorn.Config(app), app, lambda _: None)
    token = current.record.set(Record(id="req_1"))
    try:
        serving.handle_exit(signal.SIGTERM, None)
    finally:
        current.record.reset(token)
    assert ids == [""]
    assert serving.should_exit
    assert app.routes.draining
