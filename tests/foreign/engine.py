"""The scripted model behind every foreign server. It needs only the standard library of Python 3.9 or later.

A token is a word or a sign. Prompts that contain one of the words below make the model fail or go on; any other prompt
gets a short answer that depends on it. The model writes what happens to it into a log, which the checks read.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

FAIL_AT_ONCE = "fail-at-once"
"""In a prompt: the model fails before its first token."""
FAIL_MIDWAY = "fail-midway"
"""In a prompt: the model fails after two tokens."""
GO_ON = "go-on"
"""In a prompt: the model writes for a minute unless its server ends that."""
FAULT = "CUDA error: an illegal memory access was encountered"
"""The message of the model's failure."""

LOG_VARIABLE = "FOREIGN_LOG"
"""The environment variable with the path of the log, one JSON object a line."""
TOKEN_SECONDS = 0.003
GO_ON_SECONDS = 0.02
GO_ON_TOKENS = 3000


class EngineError(Exception):
    """The model failed."""


@dataclass(frozen=True)
class Delta:
    """The part of the answer that a token adds."""

    text: str
    n_tokens: int
    """Tokens since the last delta: 1, or 0 for text that was held back."""
    finish: str | None = None
    """`stop` or `length` with the last delta."""


def tokens(prompt: str, choice: int = 0) -> list[str]:
    """Returns the tokens of a whole answer, an end token excluded. Another choice begins with other words."""
    topic = re.search(r"about (\w+)", prompt)
    return [
        "About" if choice == 0 else f"{choice}: About",
        f" {topic.group(1) if topic else 'nothing'}",
        ":",
        " a",
        " café",
        ",",
        " two",
        " cups",
        ",",
        " three",
        " spoons",
        ".",
    ]


def answer(prompt: str, max_tokens: int | None = None, choice: int = 0) -> str:
    """Returns the text of an answer."""
    return "".join(tokens(prompt, choice)[:max_tokens])


def count(text: str) -> int:
    """Returns the number of tokens in a prompt."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def generate(
    prompt: str,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    *,
    keeps_stop: bool = False,
    choice: int = 0,
) -> Iterator[Delta]:
    """Yields a delta a token. With `keeps_stop`, tokens are never held back, and the last ones contain the stop string.

    Raises EngineError."""
    if FAIL_AT_ONCE in prompt:
        raise EngineError(FAULT)
    stops = [text for text in stop if text]
    text, sent = "", 0
    for number, token in enumerate(_endless(prompt, choice), 1):
        if FAIL_MIDWAY in prompt and number == 3:
            raise EngineError(FAULT)
        text += token
        found = [text.find(each_stop) for each_stop in stops if each_stop in text]
        if found:
            end = len(text) if keeps_stop else min(found)
            yield Delta(text[sent:end], 1, "stop")
            return
        if max_tokens is not None and number >= max_tokens:
            yield Delta(text[sent:], 1, "length")
            return
        end = len(text) if keeps_stop else len(text) - _held_back(text, stops)
        yield Delta(text[sent:end], 1)
        sent = max(sent, end)
    yield Delta(text[sent:], 0, "stop")


def _endless(prompt: str, choice: int) -> Iterator[str]:
    if GO_ON in prompt:
        for _ in range(GO_ON_TOKENS):
            time.sleep(GO_ON_SECONDS)
            yield " on"
    for token in tokens(prompt, choice):
        time.sleep(TOKEN_SECONDS)
        yield token


def _held_back(text: str, stops: Sequence[str]) -> int:
    """Returns the number of characters at the end of `text` that may begin a stop string."""
    lengths = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max(lengths, default=0)


# ---- The log


def note(event: str, **facts: Any) -> None:
    """Adds a line to the log: `request` with what the model received, `cancelled`, `ended`."""
    path = os.environ.get(LOG_VARIABLE)
    if path:
        line = json.dumps({"event": event, **facts}, ensure_ascii=False) + "\n"
        with open(path, "a", encoding="utf-8") as log:
            log.write(line)
