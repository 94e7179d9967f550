"""The model of TensorRT-LLM's `llmapi`: 1-D tensors, cumulative text, no counts."""

from __future__ import annotations

from typing import Any

from tests.foreign import engine
from tests.foreign.servers.triton_base import Model, Request, texts


class TritonPythonModel(Model):
    def error_text(self, error: Exception) -> str:
        return f"Error generating request: {error}"

    def _run(self, request: Request) -> None:
        try:
            self.answer(request)
        except Exception as error:
            request.fail(self.error_text(error), texts("text_output", "N/A"))

    def answer(self, request: Request) -> None:
        prompt, streaming = request.first("text_input"), bool(request.first("streaming", False))
        request.note(prompt)
        if request.first("stop"):
            request.fail("Request cancelled by client")
            return
        if streaming and not self.decoupled:
            raise ValueError("Streaming is only supported in decoupled mode.")
        text = "" if request.first("sampling_param_exclude_input_from_output", False) else prompt
        limit = request.first("sampling_param_max_tokens", 32)
        stop = request.all("sampling_param_stop") or []
        finish = None
        for delta in request.until_cancelled(engine.generate(prompt, limit, stop)):
            text, finish = text + delta.text, delta.finish
            if streaming:
                request.send(*self._outputs(request, text, finish), final=bool(finish))
        if finish is None:
            request.fail("Request cancelled by client")
        elif not streaming:
            request.send(*self._outputs(request, text, finish), final=True)

    def _outputs(self, request: Request, text: str, finish: str | None) -> list[Any]:
        outputs = [texts("text_output", text)]
        if request.first("return_finish_reason"):
            outputs.append(texts("finish_reason", str(finish)))
        if request.first("return_stop_reason"):
            outputs.append(texts("stop_reason", "None"))
        return outputs
