"""Requests of all kinds, drawn by chance, with the status that each should get. PURE."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEYS = ("key-of-the-first", "key-of-the-second")
STORY = "Once upon a time, in a forest far away, there lived a fox who could read. " * 4
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
Body = dict[str, Any] | None
"""None: it is a GET."""


@dataclass(frozen=True)
class Request:
    path: str
    body: Body
    status: int = 200
    key: str = ""

    @property
    def content(self) -> bytes:
        """As HTTP/1.1, on a connection of its own."""
        body = b"" if self.body is None else json.dumps(self.body).encode()
        head = f"{'GET' if self.body is None else 'POST'} {self.path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        if self.key:
            head += f"authorization: Bearer {self.key}\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def request(chance: random.Random) -> Request:
    return chance.choices(list(KINDS), list(KINDS.values()))[0](chance)


# ---- What each kind is made of


def _prompt(chance: random.Random) -> str:
    """One of some fifty thousand, many of which share a beginning."""
    beginning = chance.choice(["", "Listen. ", "A story: "])
    return f"{beginning}{STORY[: chance.randrange(1, len(STORY))]}{chance.randrange(60)}"


def _fields(chance: random.Random) -> dict[str, Any]:
    return {
        "max_tokens": chance.choice([1, 5, 20, 60]),
        "temperature": chance.choice([0.0, 1.0, 2.0]),
        "stream": chance.random() < 0.5,
    }


def _ask(path: str, chance: random.Random, **body: Any) -> Request:
    return Request(path, body, key=chance.choice(KEYS))


def _messages(chance: random.Random) -> list[Any]:
    return [{"role": "user", "content": _prompt(chance)}]


def _chat(chance: random.Random, **more: Any) -> Request:
    return _ask(CHAT, chance, messages=_messages(chance), **_fields(chance) | more)


def _choices(chance: random.Random) -> Request:
    return _chat(chance, n=chance.choice([2, 3, 4]), stop=["\n\n", "fox"])


def _completion(chance: random.Random) -> Request:
    return _ask(COMPLETIONS, chance, prompt=_prompt(chance), logprobs=chance.choice([None, 2]), **_fields(chance))


def _completions(chance: random.Random) -> Request:
    return _ask(COMPLETIONS, chance, prompt=[_prompt(chance), "x"], n=2, echo=chance.random() < 0.5, **_fields(chance))


def _parameters(chance: random.Random) -> dict[str, Any]:
    """A schema that has hardly been there before."""
    name = f"field_{chance.randrange(10_000)}"
    return {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": 9}, "unit": {"enum": ["C", "F"]}},
        "required": [name, "unit"],
        "additionalProperties": False,
    }


def _schema(chance: random.Random) -> Request:
    schema = {"name": "answer", "schema": _parameters(chance)}
    return _chat(chance, response_format={"type": "json_schema", "json_schema": schema})


def _tools(chance: random.Random) -> Request:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": _parameters(chance)}}
    return _chat(chance, tools=[tool], tool_choice=chance.choice(["auto", "required"]))


def _other(chance: random.Random) -> Request:
    """What generates nothing."""
    asked: list[tuple[str, Body]] = [
        ("/v1/models", None),
        ("/v1/models/smollm2", None),
        ("/metrics", None),
        ("/tokenize", {"content": _prompt(chance)}),
        ("/detokenize", {"tokens": [1, 2, 3]}),
        ("/apply-template", {"messages": _messages(chance)}),
        ("/v1/embeddings", {"input": [_prompt(chance), "x"]}),
    ]
    path, body = chance.choice(asked)
    return Request(path, body, key=chance.choice(KEYS))


def _error(chance: random.Random) -> Request:
    """What is refused: by the sidecar, by the template, by the worker."""
    messages = _messages(chance)
    asked: list[tuple[int, str, Body]] = [
        (400, CHAT, {"messages": messages, "temperature": "warm"}),
        (400, CHAT, {"messages": messages, "no_such_field": 1}),
        (400, CHAT, {"messages": messages, "response_format": {"type": "json_schema"}}),
        (400, CHAT, {"messages": messages, "regex": "(", "stream": True}),
        (400, COMPLETIONS, {"prompt": STORY * 30}),
        (404, CHAT, {"messages": messages, "model": f"none-{chance.randrange(10_000)}"}),
        (404, f"/v1/nothing/{chance.randrange(10_000)}", None),
    ]
    status, path, body = chance.choice(asked)
    return Request(path, body, status, chance.choice(KEYS))


def _stranger(chance: random.Random) -> Request:
    return Request(CHAT, {"messages": _messages(chance)}, 401, f"guessed-{chance.randrange(10_000)}")


KINDS: dict[Callable[[random.Random], Request], int] = {
    _chat: 6,
    _completion: 4,
    _completions: 2,
    _choices: 2,
    _schema: 2,
    _tools: 2,
    _other: 3,
    _error: 2,
    _stranger: 1,
}
"""And how often each of them comes."""
