"""The model of Triton's vLLM backend (backends/vllm/model.py), without vLLM."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from tests.foreign import engine
from tests.foreign.servers import triton_tensors
from tests.foreign.servers.triton_base import Model, Request, complete, texts

SAMPLING_PARAMETERS = {
    "n",
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "logprobs",
    "prompt_logprobs",
    "bad_words",
    "lora_name",
    "structured_outputs",
}
MAX_TOKENS = 16
"""vLLM's default."""


class TritonPythonModel(Model):
    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        return complete(config, triton_tensors.VLLM_INPUTS, triton_tensors.VLLM_OUTPUTS, decoupled=True)

    def error_text(self, error: Exception) -> str:
        return f"Error generating stream: {error}"

    def _run(self, request: Request) -> None:
        try:
            self.answer(request)
        except Exception as error:
            request.fail(self.error_text(error), texts("text_output", "N/A"))

    def answer(self, request: Request) -> None:
        if request.first("embedding_request") is not None:
            raise ValueError(f"Model {self.name} does not support 'embed' request")
        stream = bool(request.first("stream", False))
        exclude = request.first("exclude_input_in_output")
        prepends = not exclude if exclude is not None else not stream
        if prepends and stream:
            raise ValueError("When streaming, `exclude_input_in_output` = False is not allowed.")
        prompt = request.first("text_input")
        request.note(prompt)
        wanted = _sampling(request.first("sampling_parameters", request.parameters))
        choices = [_Choice(prompt, wanted, number) for number in range(wanted.get("n", 1))]
        answered = _Answered(request, prompt, prepends, wanted)
        if stream:
            self._stream(request, choices, answered)
        else:
            for choice in choices:
                for delta in request.until_cancelled(choice.deltas):
                    choice.add(delta)
            request.send(*answered.outputs(choices), final=True)

    def _stream(self, request: Request, choices: list[_Choice], answered: _Answered) -> None:
        turns = [request.until_cancelled(choice.deltas) for choice in choices]
        while True:
            for choice, deltas in zip(choices, turns, strict=True):
                delta = next(deltas, None)
                if delta is not None:
                    choice.add(delta)
                elif choice.finish is None:
                    request.fail("Request was cancelled")
                    return
            is_final = all(choice.finish for choice in choices)
            request.send(*answered.outputs(choices), final=is_final)
            if is_final:
                return
            for choice in choices:
                choice.sent()


def _sampling(text: str) -> dict[str, Any]:
    """Returns vLLM's parameters. Raises AttributeError for any other one, as the real backend does."""
    wanted = json.loads(text)
    if wanted.keys() - SAMPLING_PARAMETERS or not 0 <= wanted.get("temperature", 1) <= 2:
        raise AttributeError("'NoneType' object has no attribute 'lora_name'")
    return dict(wanted)


class _Choice:
    """One answer; `text` and `tokens` are what was not sent yet."""

    def __init__(self, prompt: str, wanted: dict[str, Any], number: int) -> None:
        stop = wanted.get("stop") or []
        limit = wanted.get("max_tokens", MAX_TOKENS)
        self.deltas = engine.generate(prompt, limit, [stop] if isinstance(stop, str) else stop, choice=number)
        self.text = ""
        self.tokens: list[str] = []
        self.finish: str | None = None

    def add(self, delta: engine.Delta) -> None:
        self.text += delta.text
        self.tokens += [delta.text] * delta.n_tokens
        self.finish = delta.finish

    def sent(self) -> None:
        self.text, self.tokens = "", []


class _Answered:
    """Builds the outputs that a request selects."""

    def __init__(self, request: Request, prompt: str, prepends: bool, wanted: dict[str, Any]) -> None:
        self._prefix = prompt if prepends else ""
        self._n_input = engine.count(prompt)
        self._logprobs = wanted.get("logprobs")
        self._flags = {
            name: bool(request.first(name))
            for name in (
                "return_finish_reason",
                "return_logprobs",
                "return_num_input_tokens",
                "return_num_output_tokens",
            )
        }

    def outputs(self, choices: list[_Choice]) -> list[Any]:
        tensors = [texts("text_output", *(self._prefix + choice.text for choice in choices))]
        if self._flags["return_finish_reason"]:
            tensors.append(texts("finish_reason", *(str(choice.finish) for choice in choices)))
        if self._flags["return_logprobs"]:
            tensors.append(texts("logprobs", *(self._logprobs_of(choice) for choice in choices)))
        if self._flags["return_num_input_tokens"]:
            tensors.append(pb_utils.Tensor("num_input_tokens", np.asarray(self._n_input, dtype=np.uint32)))
        if self._flags["return_num_output_tokens"]:
            counts = np.asarray([len(choice.tokens) for choice in choices], dtype=np.uint32)
            tensors.append(pb_utils.Tensor("num_output_tokens", counts))
        return tensors

    def _logprobs_of(self, choice: _Choice) -> str:
        if self._logprobs is None:
            return "null"
        rows = []
        for token in choice.tokens:
            likeliest = {"7": {"logprob": -0.25, "rank": 1, "decoded_token": token}}
            others = {str(8 + n): {"logprob": -2.0 - n, "rank": 2 + n, "decoded_token": f"<{n}>"} for n in range(20)}
            rows.append({**likeliest, **dict(list(others.items())[: max(self._logprobs - 1, 0)])})
        return json.dumps(rows)
