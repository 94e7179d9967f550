"""A chat with the OpenAI SDK whose history the server keeps: a request has only the new message.

    python examples/server_side_history/openai_sdk.py [--conversation] [--resume ID]

An empty line ends the chat. It prints an id, with which `--resume` continues the chat later, from any machine.
"""

import argparse
import os
import sys
from typing import Any

from openai import OpenAI


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="llamacpp")
    parser.add_argument("--conversation", action="store_true", help="keep the chat as a conversation")
    parser.add_argument("--resume", metavar="ID", help="id of a response or a conversation to continue")
    arguments = parser.parse_args()
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    id: str | None = arguments.resume
    if arguments.conversation and id is None:
        id = client.conversations.create().id
    while text := read_line():
        response_id = answer(client, arguments.model, text, id)
        # A conversation grows by itself, and each response continues the one before it.
        if id is None or id.startswith("resp_"):
            id = response_id
    print(f"\n--resume {id}" if id else "")


def read_line() -> str:
    """Returns an empty text at the end of the input."""
    print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def answer(client: OpenAI, model: str, text: str, id: str | None) -> str:
    """Prints the answer to `text` while the model generates it, and returns the id of the response."""
    history: dict[str, Any] = {}
    if id is not None:
        history = {"conversation" if id.startswith("conv_") else "previous_response_id": id}
    response_id = ""
    with client.responses.create(model=model, input=text, max_output_tokens=100, stream=True, **history) as stream:
        for event in stream:
            if event.type == "response.created":
                response_id = event.response.id
            elif event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "response.failed":
                raise SystemExit(f"the response failed: {event.response.error}")
    print()
    return response_id


if __name__ == "__main__":
    main()
