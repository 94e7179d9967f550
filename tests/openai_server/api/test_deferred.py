"""The modules of large APIs are imported when they are first needed."""

import json
import subprocess
import sys

from openai_server.api.deferred import handler_in
from openai_server.api.endpoint import Handler
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext
from openai_server.http.json_response import JSONResponse
from tests.openai_server.api.fakes import request_context, services

created: list[Services] = []


def counted(for_server: Services) -> Handler:
    created.append(for_server)

    async def handle(context: RequestContext) -> JSONResponse:
        return JSONResponse({"path": context.path})

    return handle


async def test_a_handler_is_created_by_the_first_request() -> None:
    server = services()
    handler = handler_in(__name__, "counted")(server)
    assert not created
    for _ in range(2):
        response = await handler(request_context())
        assert json.loads(bytes(response.body))["path"] == request_context().path
    assert created == [server]


def test_the_start_imports_neither_the_responses_nor_the_messages_api() -> None:
    code = "import json, sys, openai_server.serving; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    families = ("openai_server.api.responses", "openai_server.api.messages", "openai_server.api.conversations")
    imported = {name for name in json.loads(done.stdout) if name.startswith(families)}
    assert {name for name in imported if name.rpartition(".")[2] not in ("endpoint", "errors")} == {
        *families,
        "openai_server.api.responses.retrieval",
    }
