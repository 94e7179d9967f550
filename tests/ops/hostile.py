"""Bodies that are expensive for a server: some above its limits, some just within them."""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, NamedTuple

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
USER = b'{"role":"user","content":""}'
CALL = b'{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}'
ROOM = 1024
"""Bytes of a body that its frame may take."""


class Hostile(NamedTuple):
    path: str
    make: Callable[[], bytes]

    @property
    def body(self) -> bytes:
        return self.make()


def make_filled(head: bytes, item: bytes, tail: bytes, size: int, max_items: int | None = None) -> bytes:
    """Returns a list that repeats one item until it has `size` bytes or `max_items` items."""
    n = (size - ROOM) // (len(item) + 1)
    return head + b",".join([item] * (n if max_items is None else min(n, max_items))) + tail


def make_text(head: bytes, unit: bytes, tail: bytes, size: int) -> bytes:
    return head + unit * ((size - ROOM) // len(unit)) + tail


def make_keys(head: bytes, value: bytes, tail: bytes, size: int) -> bytes:
    n = (size - ROOM) // (len(value) + 12)
    return head + b",".join(b'"k%d":%b' % (i, value) for i in range(n)) + tail


def make_nested(head: bytes, tail: bytes, size: int, levels: int = 100) -> bytes:
    return make_filled(head + b'{"enum":[', b'{"a":' * levels + b"1" + b"}" * levels, b"]}" + tail, size)


Make = Callable[[], bytes]
"""Bodies are made when they are needed: all together take a gigabyte."""


def filled(*arguments: Any) -> Make:
    return partial(make_filled, *arguments)


def text(*arguments: Any) -> Make:
    return partial(make_text, *arguments)


def keys(*arguments: Any) -> Make:
    return partial(make_keys, *arguments)


def nested(*arguments: Any) -> Make:
    return partial(make_nested, *arguments)


def kinds(size: int, values: int) -> dict[str, Hostile]:
    """Returns bodies of about `size` bytes; those "within" the limit have fewer than `values` values."""
    chat = b'{"messages":[' + USER + b'],"max_tokens":1,'
    prompt = b'{"prompt":"a","max_tokens":1,'
    within = values - 64
    sized: dict[str, Hostile] = {
        "lists of one id": Hostile(COMPLETIONS, filled(b'{"prompt":[', b"[1]", b"]}", size)),
        "ids": Hostile(COMPLETIONS, filled(b'{"prompt":[', b"1", b"]}", size)),
        "ids within": Hostile(COMPLETIONS, filled(b'{"max_tokens":1,"prompt":[', b"12345", b"]}", size, within)),
        "lists of ids within": Hostile(
            COMPLETIONS,
            filled(
                b'{"max_tokens":1,"prompt":[',
                b"[" + b",".join([b"12345"] * 500) + b"]",
                b"]}",
                size,
                within // 501,
            ),
        ),
        "inputs of one id": Hostile(EMBEDDINGS, filled(b'{"input":[', b"[1]", b"]}", size)),
        "inputs of ids within": Hostile(
            EMBEDDINGS,
            filled(b'{"input":[', b"[" + b",".join([b"12345"] * 500) + b"]", b"]}", size, within // 501),
        ),
        "inputs of texts": Hostile(EMBEDDINGS, filled(b'{"input":[', b'"a"', b"]}", size)),
        "inputs of texts within": Hostile(EMBEDDINGS, filled(b'{"input":[', b'"a"', b"]}", size, min(2048, within))),
        "too many inputs within": Hostile(EMBEDDINGS, filled(b'{"input":[', b'"a"', b"]}", size, within)),
        "messages": Hostile(CHAT, filled(b'{"messages":[', USER, b"]}", size)),
        "messages within values": Hostile(CHAT, filled(b'{"messages":[', USER, b"]}", size, within // 3)),
        "messages within": Hostile(
            CHAT, filled(b'{"max_tokens":1,"messages":[', USER, b"]}", size, min(8192, within // 3))
        ),
        "tool calls": Hostile(CHAT, filled(b'{"messages":[{"role":"assistant","tool_calls":[', CALL, b"]}]}", size)),
        "tool calls within": Hostile(
            CHAT,
            filled(
                b'{"max_tokens":1,"messages":[{"role":"assistant","tool_calls":[',
                CALL,
                b"]}]}",
                size,
                min(8192, within // 7),
            ),
        ),
        "arguments within": Hostile(
            CHAT,
            filled(
                b'{"max_tokens":1,"messages":[{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":'
                b'{"name":"f","arguments":"{\\"a\\":[',
                b"[1]",
                b']}"}}]}]}',
                size,
                within // 2,
            ),
        ),
        "parts": Hostile(
            CHAT,
            filled(b'{"messages":[{"role":"user","content":[', b'{"type":"text","text":""}', b"]}]}", size),
        ),
        "parts within": Hostile(
            CHAT,
            filled(
                b'{"max_tokens":1,"messages":[{"role":"user","content":[',
                b'{"type":"text","text":""}',
                b"]}]}",
                size,
                min(8192, within // 3),
            ),
        ),
        "detokenize": Hostile("/detokenize", filled(b'{"tokens":[', b"12345", b"]}", size)),
        "detokenize within": Hostile("/detokenize", filled(b'{"tokens":[', b"12345", b"]}", size, within)),
        "documents": Hostile("/v1/rerank", filled(b'{"query":"a","documents":[', b'{"text":"a"}', b"]}", size)),
        "documents within": Hostile(
            "/v1/rerank", filled(b'{"query":"a","documents":[', b'"a"', b"]}", size, min(2048, within))
        ),
        "tools": Hostile(
            CHAT, filled(chat + b'"tools":[', b'{"type":"function","function":{"name":"f"}}', b"]}", size)
        ),
        "functions within": Hostile(CHAT, filled(chat + b'"functions":[', b'{"name":"f"}', b"]}", size, within // 2)),
        "stop": Hostile(COMPLETIONS, filled(prompt + b'"stop":[', b'"a"', b"]}", size, within)),
        "biases": Hostile(COMPLETIONS, keys(prompt + b'"logit_bias":{', b"1", b"}}", min(size, within * 12))),
        "a nested schema": Hostile(CHAT, nested(chat + b'"json_schema":', b"}", size)),
        "a nested schema within": Hostile(CHAT, nested(chat + b'"json_schema":', b"}", min(size, within * 4))),
        "a nested format within": Hostile(
            CHAT,
            nested(chat + b'"response_format":{"type":"json_object","schema":', b"}}", min(size, within * 4)),
        ),
        "nested parameters within": Hostile(
            CHAT,
            nested(
                chat + b'"tools":[{"type":"function","function":{"name":"f","parameters":',
                b"}}]}",
                min(size, within * 4),
            ),
        ),
        "wide variables within": Hostile(
            CHAT, keys(chat + b'"chat_template_kwargs":{', b"1", b"}}", min(size, within * 12))
        ),
        "metadata within": Hostile(CHAT, keys(chat + b'"metadata":{', b'{"a":1}', b"}}", min(size, within * 8))),
        "unknown keys": Hostile(CHAT, keys(b"{", b"1", b"}", min(size, within * 12))),
        "one key again and again": Hostile(COMPLETIONS, filled(b"{", b'"n":1', b',"prompt":"a"}', size, within)),
        "empty objects": Hostile(COMPLETIONS, filled(b'{"prompt":[', b"{}", b"]}", size)),
        "empty objects within": Hostile(COMPLETIONS, filled(b'{"prompt":[', b"{}", b"]}", size, within // 2)),
        "long numbers": Hostile(COMPLETIONS, filled(b'{"prompt":[', b"0.1234567890123456789", b"]}", size, within)),
        "one long number": Hostile(COMPLETIONS, text(b'{"temperature":', b"1", b"}", size)),
        "ASCII": Hostile(COMPLETIONS, text(prompt + b'"suffix":"', b"a", b'"}', size)),
        "ASCII prompt": Hostile(COMPLETIONS, text(b'{"max_tokens":1,"prompt":"', b"a", b'"}', min(size, 4 << 20))),
        "ASCII chat": Hostile(
            CHAT,
            text(b'{"max_tokens":1,"messages":[{"role":"user","content":"', b"a", b'"}]}', min(size, 4 << 20)),
        ),
        "escapes": Hostile(COMPLETIONS, text(prompt + b'"suffix":"', b"\\u0041", b'"}', size)),
        "line breaks": Hostile(COMPLETIONS, text(prompt + b'"suffix":"', b"\\n", b'"}', size)),
        "Chinese": Hostile(COMPLETIONS, text(prompt + b'"suffix":"', "漢".encode(), b'"}', size)),
        "one emoji": Hostile(COMPLETIONS, text(prompt + '"suffix":"😀'.encode(), b"a", b'"}', size)),
        "a long key": Hostile(COMPLETIONS, text(b'{"', b"k", b'":1}', size)),
        "a long word": Hostile(CHAT, text(chat + b'"reasoning_effort":"', b"k", b'"}', size)),
        "white space": Hostile(COMPLETIONS, text(b'{"prompt":', b" ", b"1}", size)),
        "no JSON": Hostile(COMPLETIONS, text(b"", b"x", b"", size)),
        "brackets": Hostile(COMPLETIONS, text(b"", b"[", b"", size)),
        "brackets within": Hostile(COMPLETIONS, text(b"", b"[", b"", min(size, within))),
        "quotes": Hostile(COMPLETIONS, text(b"", b'"', b"", size)),
        "messages to tokenize within": Hostile(
            "/tokenize", filled(b'{"messages":[', USER, b"]}", size, min(8192, within // 3))
        ),
        "text to tokenize": Hostile("/tokenize", text(b'{"content":"', b"a ", b'"}', min(size, 4 << 20))),
        "messages to render within": Hostile(
            "/apply-template", filled(b'{"messages":[', USER, b"]}", size, min(8192, within // 3))
        ),
    }
    return sized


class Attack:
    """Requests that the attacking process sends: each body of a list in turn, again and again."""

    def __init__(self, bodies: list[Hostile]) -> None:
        self._requests = [_request(hostile.path.encode(), hostile.body) for hostile in bodies]
        self._n = count()

    def next(self) -> bytes:
        return self._requests[next(self._n) % len(self._requests)]


def _request(path: bytes, body: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (path, len(body)) + body
