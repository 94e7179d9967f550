"""Models with tensor names of their own, as users write them for Triton's Python backend."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from tests.foreign import engine
from tests.foreign.servers.triton_base import Model, Request, texts

PARAMETERS = {"max_new_tokens", "stop_sequences", "temperature", "top_p"}


class Custom(Model):
    """Parameters in a JSON object, bytes that end inside a character, and an empty response at the end."""

    def answer(self, request: Request) -> None:
        prompt = request.first("PROMPT")
        request.note(prompt)
        wanted = json.loads(request.first("PARAMS", "{}"))
        if unknown := wanted.keys() - PARAMETERS:
            raise ValueError(f"unknown parameter: {min(unknown)}")
        deltas = engine.generate(
            prompt, wanted.get("max_new_tokens", 256), wanted.get("stop_sequences", []), keeps_stop=True
        )
        for delta in request.until_cancelled(deltas):
            for part in _parts(delta.text.encode()):
                request.send(texts("GENERATED", part))
        request.end()


def _parts(data: bytes) -> list[bytes]:
    """Cuts inside the last character of more than one byte."""
    cut = next((place for place in range(len(data) - 1, 0, -1) if data[place] & 0xC0 == 0x80), len(data))
    return [data[:cut], data[cut:]] if cut < len(data) else [data]


REASONS = {None: "", "stop": "eos_token", "length": "max_length"}


class Cumulative(Model):
    """Each response has the whole text so far, the reason and total counts."""

    def answer(self, request: Request) -> None:
        prompt = request.first("question")
        request.note(prompt)
        text, n_tokens = "", 0
        deltas = engine.generate(prompt, request.first("length"), request.all("stop_sequences") or [])
        for delta in request.until_cancelled(deltas):
            text, n_tokens = text + delta.text, n_tokens + delta.n_tokens
            request.send(
                texts("answer_so_far", text),
                texts("why", REASONS[delta.finish]),
                pb_utils.Tensor("n_in", np.array([engine.count(prompt)], dtype=np.int64)),
                pb_utils.Tensor("n_out", np.array([n_tokens], dtype=np.int64)),
                final=bool(delta.finish),
            )


class Tutorial(Model):
    """As in NVIDIA's tutorials for transformers models: it blocks, and takes nothing but prompts."""

    def execute(self, requests: list[Any]) -> list[Any]:  # type: ignore[override]  # not decoupled
        responses = []
        for request in requests:
            prompt = pb_utils.get_input_tensor_by_name(request, "prompt").as_numpy().reshape(-1)[0].decode()
            engine.note("request", model=self.name, version=self.version, prompt=prompt, inputs={"prompt": [prompt]})
            try:
                text = "".join(delta.text for delta in engine.generate(prompt))
                responses.append(pb_utils.InferenceResponse(output_tensors=[texts("text", text)]))
            except engine.EngineError as error:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))))
        return responses


class Contract(Model):
    """This project's own contract (protos/README.md), as a decoupled model."""

    def answer(self, request: Request) -> None:
        prompt = request.first("prompt")
        request.note(prompt)
        n_tokens = 0
        deltas = engine.generate(prompt, request.first("max_tokens"), request.all("stop") or [])
        for delta in request.until_cancelled(deltas):
            n_tokens += delta.n_tokens
            outputs = [
                texts("token", delta.text),
                texts("finish_reason", delta.finish or "null"),
                pb_utils.Tensor("index", np.array([0], dtype=np.int32)),
            ]
            if delta.finish:
                outputs += [
                    pb_utils.Tensor("prompt_tokens", np.array([engine.count(prompt)], dtype=np.int32)),
                    pb_utils.Tensor("cached_tokens", np.array([0], dtype=np.int32)),
                    pb_utils.Tensor("completion_tokens", np.array([n_tokens], dtype=np.int32)),
                ]
            request.send(*outputs, final=bool(delta.finish))


class Broken(Model):
    def initialize(self, args: dict[str, str]) -> None:
        raise RuntimeError("no weights in this folder")
