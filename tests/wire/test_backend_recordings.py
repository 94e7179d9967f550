"""Exchanges with real servers, in recorded/backends: the same HTTP requests lead to the same calls and answers.

tests/foreign records them, and describes the servers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.wire.backend_replay import FOLDER, ReplayServer, answer_in_common, config, replaying
from tests.wire.sidecar import app_for

RECORDINGS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
ROOT = Path(__file__).resolve().parents[2]


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) >= 10


@pytest.mark.parametrize("name", RECORDINGS)
async def test_the_same_requests_lead_to_the_same_calls_and_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recording = RECORDINGS[name]
    server = ReplayServer(recording["lookups"], recording["kind"])
    async with replaying(server) as port:
        settings = config(recording["options"])
        names = {field.name for field in dataclasses.fields(settings)} - {"port", "anyserve_endpoint"}
        async with app_for(port, **{name: getattr(settings, name) for name in names}) as sidecar:
            for exchange in recording["exchanges"]:
                server.expected = list(exchange["calls"])
                method = "GET" if exchange["body"] is None else "POST"
                reply = await sidecar.send(method, exchange["path"], exchange["body"])
                where = f"{exchange['path']} {exchange['body']}"
                assert not server.problems, where
                assert not server.expected, f"{where}: calls are missing"
                assert answer_in_common(reply.status, reply.body) == exchange["answer"], where
