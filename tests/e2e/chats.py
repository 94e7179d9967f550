"""The programs in examples/server_side_history: a chat, and what the server has kept of it."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import openai

from tests.packaging.commands import ROOT

EXAMPLES = ROOT / "examples" / "server_side_history"
TIMEOUT = 120.0
"""Seconds for a chat."""
RESUME = re.compile(r"^--resume (\S+)$", re.MULTILINE)


def check_that_the_server_keeps_the_chat(
    command: Sequence[str], url: str, *options: str, folder: Path | None = None
) -> None:
    """Runs the program twice; the second process continues the chat of the first one. Raises AssertionError."""
    messages = ["My name is Ada.", "What is my name?", "Which planet is the largest?"]
    first = _chat([*command, *options], url, messages[:2], folder)
    second = _chat([*command, "--resume", _id(first)], url, messages[2:], folder)
    users, answers = kept(url, _id(second))
    assert users == messages
    assert len(answers) == 3
    for answer, output in zip(answers, (first, first, second), strict=True):
        assert answer
        assert answer in output


def _id(output: str) -> str:
    found = RESUME.search(output)
    assert found, output
    return found[1]


def _chat(command: Sequence[str], url: str, lines: Sequence[str], folder: Path | None) -> str:
    """Returns the output of the program."""
    environment = {**os.environ, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none"}
    result = subprocess.run(
        command,
        input="".join(f"{line}\n" for line in lines),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


def kept(url: str, id: str) -> tuple[list[str], list[str]]:
    """Texts of the user and of the model that the server has kept, in the order of the chat."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        if id.startswith("conv_"):
            items = [item.to_dict() for item in client.conversations.items.list(id, order="asc")]
        else:
            items = [item.to_dict() for item in client.responses.input_items.list(id, order="asc")]
            items += [item.to_dict() for item in client.responses.retrieve(id).output]
    texts: dict[object, list[str]] = {"user": [], "assistant": []}
    for item in items:
        content = item["content"]
        assert isinstance(content, list)
        texts[item["role"]].append("".join(part["text"] for part in content))
    return texts["user"], texts["assistant"]
