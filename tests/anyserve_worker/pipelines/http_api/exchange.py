"""Answers of the APIs of the built-in mappings, as their servers send them."""

import json
from dataclasses import dataclass, field
from typing import Any

from anyserve_worker.pipelines.core.events import Usage
from tests.anyserve_worker.pipelines.answering import Summary


def sse(*values: Any, end: str = "\n") -> list[str]:
    return [f"data:{'' if end == '' else ' '}{json.dumps(value)}{end}{end}" for value in values]


def named(*events: tuple[str, Any]) -> list[str]:
    return [f"event: {name}\ndata: {json.dumps(value)}\n\n" for name, value in events]


def lines(*values: Any) -> list[str]:
    return [json.dumps(value) + "\n" for value in values]


@dataclass
class Api:
    """The exchange of a request with `max_tokens` 20, `temperature` 0.5 and `stop` "END", and the text "Hi"."""

    path: str
    body: dict[str, Any]
    whole: Any
    """Body of a whole answer with the text "Hello"."""
    pieces: list[str]
    """The same answer as a stream."""
    type: str
    """Content-Type of a stream."""
    summary: Summary
    stream_path: str = ""
    """Empty: as `path`."""
    stream_body: dict[str, Any] = field(default_factory=dict)
    """Top-level differences of the body of a stream."""
    stream_summary: Summary | None = None
    """None: as `summary`."""
    error: Any = None
    """Body of an error with the text "boom"."""
    error_piece: str = ""
    """An error with the text "boom" within a stream; empty: the API has none."""
    settings: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of the client's request."""
    key_header: tuple[str, str] = ("authorization", "Bearer k-123")
    ends_by_eof: bool = False
    """Whether a stream may end anywhere."""


CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
FIELDS = {"max_tokens": 20, "temperature": 0.5, "stop": "END"}
MESSAGES = [{"role": "user", "content": "Hi"}]
HELLO = Summary(text="Hello", usage=Usage(4, 2), finish="length")
