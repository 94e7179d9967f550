"""Signals to a server."""

import signal
from typing import Any

import pytest
import uvicorn

from openai_server.core import current_request
from openai_server.core.request_context import RequestContext
from openai_server.http import server


def test_a_signal_during_a_request_is_logged_without_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []
    monkeypatch.setattr(server.log, "info", lambda *_: ids.append(current_request.request_id()))
    app: Any = None
    drained: list[bool] = []
    serving = server.Server(uvicorn.Config(app), lambda: drained.append(True), lambda _: None)
    token = current_request.context.set(RequestContext(id="req_1"))
    try:
        serving.handle_exit(signal.SIGTERM, None)
    finally:
        current_request.context.reset(token)
    assert ids == [""]
    assert serving.should_exit
    assert drained == [True]
