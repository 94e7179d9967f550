"""A chat with LangChain whose history the server keeps: a request has only the new message.

    pip install langchain-openai
    python examples/server_side_history/langchain_chat.py [--resume ID]

An empty line ends the chat. It prints an id, with which `--resume` continues the chat later, from any machine.
"""

import argparse
import os
import sys
from typing import Any

from langchain_openai import ChatOpenAI
from pydantic import SecretStr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="llamacpp")
    parser.add_argument("--resume", metavar="ID", help="id of a response to continue")
    arguments = parser.parse_args()
    model = ChatOpenAI(
        model=arguments.model,
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
        api_key=SecretStr(os.environ.get("OPENAI_API_KEY", "none")),
        use_responses_api=True,
        max_completion_tokens=100,
    )
    id: str | None = arguments.resume
    while text := read_line():
        id = answer(model, text, id)
    print(f"\n--resume {id}" if id else "")


def read_line() -> str:
    """Returns an empty text at the end of the input."""
    print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def answer(model: ChatOpenAI, text: str, id: str | None) -> str | None:
    """Prints the answer to `text` while the model generates it, and returns the id of the response."""
    history: dict[str, Any] = {} if id is None else {"previous_response_id": id}
    for chunk in model.stream(text, **history):
        print(chunk.text, end="", flush=True)
        id = chunk.response_metadata.get("id", id)
    print()
    return id


if __name__ == "__main__":
    main()
