"""Random requests of all kinds, with the status that each should get. PURE."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEYS = ("key-of-the-first", "key-of-the-second")
STORY = "Once upon a time, in a forest far away, there lived a fox who could read. " * 4
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
Body = dict[str, Any] | None
"""The JSON body of a POST; None: the request is a GET."""


@dataclass(frozen=True)
class Request:
    path: str
    body: Body
    status: int = 200
    key: str = ""

    @property
    def content(self) -> bytes:
        """The request in HTTP/1.1, for a new connection."""
        body = b"" if self.body is None else json.dumps(self.body).encode()
        head = f"{'GET' if self.body is None else 'POST'} {self.path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        if self.key:
            head += f"authorization: Bearer {self.key}\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def request(rng: random.Random) -> Request:
    return rng.choices(list(KINDS), list(KINDS.values()))[0](rng)


# ---- What each kind is made of


def _prompt(rng: random.Random) -> str:
    """Returns one of about fifty thousand prompts, many of which have a common beginning."""
    beginning = rng.choice(["", "Listen. ", "A story: "])
    return f"{beginning}{STORY[: rng.randrange(1, len(STORY))]}{rng.randrange(60)}"


def _fields(rng: random.Random) -> dict[str, Any]:
    return {
        "max_tokens": rng.choice([1, 5, 20, 60]),
        "temperature": rng.choice([0.0, 1.0, 2.0]),
        "stream": rng.random() < 0.5,
    }


def _post(path: str, rng: random.Random, **body: Any) -> Request:
    return Request(path, body, key=rng.choice(KEYS))


def _messages(rng: random.Random) -> list[Any]:
    return [{"role": "user", "content": _prompt(rng)}]


def _chat(rng: random.Random, **fields: Any) -> Request:
    return _post(CHAT, rng, messages=_messages(rng), **_fields(rng) | fields)


def _choices(rng: random.Random) -> Request:
    return _chat(rng, n=rng.choice([2, 3, 4]), stop=["\n\n", "fox"])


def _response(rng: random.Random) -> Request:
    """Returns a request whose response is stored if the server has a store."""
    limit = rng.choice([20, 60])
    return _post(RESPONSES, rng, input=_prompt(rng), max_output_tokens=limit, stream=rng.random() < 0.5)


def _completion(rng: random.Random) -> Request:
    return _post(COMPLETIONS, rng, prompt=_prompt(rng), logprobs=rng.choice([None, 2]), **_fields(rng))


def _completions(rng: random.Random) -> Request:
    return _post(COMPLETIONS, rng, prompt=[_prompt(rng), "x"], n=2, echo=rng.random() < 0.5, **_fields(rng))


def _parameters(rng: random.Random) -> dict[str, Any]:
    """Returns a schema that is almost always new."""
    name = f"field_{rng.randrange(10_000)}"
    return {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": 9}, "unit": {"enum": ["C", "F"]}},
        "required": [name, "unit"],
        "additionalProperties": False,
    }


def _schema(rng: random.Random) -> Request:
    schema = {"name": "answer", "schema": _parameters(rng)}
    return _chat(rng, response_format={"type": "json_schema", "json_schema": schema})


def _tools(rng: random.Random) -> Request:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": _parameters(rng)}}
    return _chat(rng, tools=[tool], tool_choice=rng.choice(["auto", "required"]))


def _other(rng: random.Random) -> Request:
    """Returns a request that generates nothing."""
    candidates: list[tuple[str, Body]] = [
        ("/v1/models", None),
        ("/v1/models/smollm2", None),
        ("/metrics", None),
        ("/tokenize", {"content": _prompt(rng)}),
        ("/detokenize", {"tokens": [1, 2, 3]}),
        ("/apply-template", {"messages": _messages(rng)}),
        ("/v1/embeddings", {"input": [_prompt(rng), "x"]}),
    ]
    path, body = rng.choice(candidates)
    return Request(path, body, key=rng.choice(KEYS))


def _error(rng: random.Random) -> Request:
    """Returns a request that the sidecar, the template or the worker refuses."""
    messages = _messages(rng)
    candidates: list[tuple[int, str, Body]] = [
        (400, CHAT, {"messages": messages, "temperature": "warm"}),
        (400, CHAT, {"messages": messages, "no_such_field": 1}),
        (400, CHAT, {"messages": messages, "response_format": {"type": "json_schema"}}),
        (400, CHAT, {"messages": messages, "regex": "(", "stream": True}),
        (400, COMPLETIONS, {"prompt": STORY * 30}),
        (404, CHAT, {"messages": messages, "model": f"none-{rng.randrange(10_000)}"}),
        (404, f"/v1/nothing/{rng.randrange(10_000)}", None),
    ]
    status, path, body = rng.choice(candidates)
    return Request(path, body, status, rng.choice(KEYS))


def _stranger(rng: random.Random) -> Request:
    return Request(CHAT, {"messages": _messages(rng)}, 401, f"guessed-{rng.randrange(10_000)}")


KINDS: dict[Callable[[random.Random], Request], int] = {
    _chat: 6,
    _response: 3,
    _completion: 4,
    _completions: 2,
    _choices: 2,
    _schema: 2,
    _tools: 2,
    _other: 3,
    _error: 2,
    _stranger: 1,
}
"""The relative frequency of each kind."""
