"""Requests of real agents and frameworks: what the model reads of them, with the templates of many models."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from openai_server.access.caps import Caps
from openai_server.api.responses.request import parse
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.errors import UnsupportedParameter
from openai_server.prompting.plan import Planner
from tests.openai_server.prompting.reference import BOS, EOS
from tests.openai_server.prompting.test_corpus import NAMES, TEMPLATES, source_of
from tests.openai_server.prompting.test_fitting import MOVES_SYSTEM, NEED_TOOLS, NO_CALLS, REFUSED

FOLDER = Path(__file__).parents[3] / "wire" / "recorded"
WITH_IDS = {"stateful", "codex_images"}
"""Files with requests that need a store or a model that sees images."""


@cache
def recorded() -> dict[str, list[dict[str, Any]]]:
    """Returns the bodies for `/v1/responses`, by the name of the client."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        for request in json.loads(path.read_text())["requests"]:
            if request["path"].endswith("/responses"):
                found.setdefault(path.stem, []).append(request["body"])
    return found


def requests(names: set[str]) -> list[Any]:
    bodies = [(f"{name}-{i}", body) for name, all in recorded().items() for i, body in enumerate(all) if name in names]
    return [pytest.param(body, id=id) for id, body in bodies]


def request_of(body: dict[str, Any]) -> ResponsesRequest:
    request = parse(json.dumps(body).encode(), Caps())
    return request.with_opened(["reasoning" for _ in request.sealed_items])


def test_several_clients_are_recorded() -> None:
    assert {"codex", "openai_agents", "openai_python", "pydantic_ai"} <= recorded().keys()


@pytest.mark.parametrize("body", requests(recorded().keys() - WITH_IDS))
def test_every_request_is_understood(body: dict[str, Any]) -> None:
    request = request_of(body)
    assert len(request.turn.messages) == len(request.turn.message_fields) > 0
    assert all(name in request.tools for name in (tool.name for tool in request.turn.tools))


@pytest.mark.parametrize("body", requests({"stateful"}))
def test_requests_that_continue_stored_items_are_understood(body: dict[str, Any]) -> None:
    assert request_of(body).use.continues


@pytest.mark.parametrize("body", requests({"codex_images"}))
def test_what_needs_eyes_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter):
        request_of(body)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - REFUSED - NEED_TOOLS - NO_CALLS - MOVES_SYSTEM))
def test_every_template_renders_codex(name: str) -> None:
    planner = Planner(TEMPLATES, new_id=lambda: "call_1")
    parameters = {"chat_template": source_of(name), "bos_token": BOS, "eos_token": EOS}
    for body in recorded()["codex"]:
        turn = request_of(body).turn
        plan = planner.plan(turn, parameters, EVERYTHING)
        for message in turn.messages:
            if message.content and not isinstance(message.content, str):
                assert all(part.text.strip() in plan.prompt for part in message.content)
