"""A chat model for Triton's Python backend. It gets the conversation and returns events.

`TritonPythonModel.answer` is the place for a model of your own. The rest of the file is the protocol, which
protos/README.md describes (Chats, Events, Errors): inputs, events as a stream, cancellation and errors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

Json = dict[str, Any]
PARALLEL = 16
"""Requests that are answered at the same time; the others wait."""
WORD_SECONDS = 0.02
FOLLOWED = {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"}
WITHOUT_EFFECT = {"temperature", "top_p", "seed", "user", "metadata"}


class InvalidField(ValueError):
    """A field of `body` that this model can't follow. The message is for the client."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class TritonPythonModel:
    def answer(self, messages: list[Json], body: Json) -> Generator[Json, None, None]:
        """Yields the events of an answer. It is closed if the client leaves, and may raise InvalidField."""
        for field in body.keys() - FOLLOWED - WITHOUT_EFFECT:
            raise InvalidField(field, "this model can't follow it")
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        words = text_of(messages[-1]).split()
        reply = ["You", "wrote", str(len(words)), "words:", *words]
        for number, word in enumerate(reply[:limit]):
            time.sleep(WORD_SECONDS)
            yield {"type": "text", "text": word if number == 0 else f" {word}"}
        n_prompt = sum(len(text_of(message).split()) for message in messages)
        n_reply = len(reply[:limit])
        yield {"type": "usage", "prompt_tokens": n_prompt, "completion_tokens": n_reply}
        yield {"type": "finish", "reason": "stop" if n_reply == len(reply) else "length"}

    def initialize(self, args: dict[str, str]) -> None:
        self._threads = ThreadPoolExecutor(PARALLEL)

    def finalize(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def execute(self, requests: list[Any]) -> None:
        """Returns at once: threads answer, since a decoupled model sends its responses itself."""
        for request in requests:
            self._threads.submit(self._run, request, request.get_response_sender())

    def _run(self, request: Any, sender: Any) -> None:
        try:
            self._send_answer(request, sender)
        except InvalidField as error:
            fail(sender, str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            # Triton's log has the cause. The client gets no text of an exception, which may have secrets.
            pb_utils.Logger.log_error(f"chat: {error!r}")
            fail(sender, "the model failed", pb_utils.TritonError.INTERNAL)

    def _send_answer(self, request: Any, sender: Any) -> None:
        messages, body = read(request)
        whole: list[Json] = []
        with closing(self.answer(messages, body)) as events:
            for event in events:
                if sender.is_cancelled():
                    break
                if body.get("stream"):
                    send(sender, [event])
                else:
                    whole.append(event)
            else:
                if whole:
                    send(sender, whole)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def read(request: Any) -> tuple[list[Json], Json]:
    """Returns the messages and the body of a request. Raises InvalidField."""
    elements = texts(request, "messages")
    body = json.loads(next(iter(texts(request, "body")), "{}"))
    decoded = [json.loads(element) for element in elements]
    # One JSON array, or a JSON object in each element.
    messages = decoded[0] if len(decoded) == 1 and isinstance(decoded[0], list) else decoded
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise InvalidField("messages", "must be a JSON array of objects, or an object in each element")
    return messages, body


def texts(request: Any, name: str) -> list[str]:
    """Returns the elements of an input; none if it is absent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else [element.decode() for element in tensor.as_numpy().reshape(-1)]


def text_of(message: Json) -> str:
    """Returns the text of a message, whose content is a text, a list of parts or absent. Raises InvalidField."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    if any(part.get("type") != "text" for part in content):
        raise InvalidField("messages", "this model reads text alone")
    return "".join(part["text"] for part in content)


def send(sender: Any, events: list[Json]) -> None:
    data = [json.dumps(event, ensure_ascii=False).encode() for event in events]
    tensor = pb_utils.Tensor("events", np.array(data, dtype=np.object_))
    sender.send(pb_utils.InferenceResponse(output_tensors=[tensor]))


def fail(sender: Any, message: str, code: int) -> None:
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
