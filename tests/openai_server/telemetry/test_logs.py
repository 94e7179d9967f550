import logging

import pytest

from openai_server.config import Config
from openai_server.core import current_request
from openai_server.core.request_context import RequestContext


def test_a_line_has_the_id_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[logging.Handler] = []

    monkeypatch.setattr(logging, "basicConfig", lambda **options: handlers.extend(options["handlers"]))
    Config().set_up_logging()
    record = logging.getLogger("x").makeRecord("x", logging.WARNING, "", 1, "hello", (), None)
    token = current_request.context.set(RequestContext(id="abc"))
    try:
        assert handlers[0].format(record).endswith(" WARNING x: hello [abc]")
    finally:
        current_request.context.reset(token)
    assert handlers[0].format(record).endswith(" WARNING x: hello")
