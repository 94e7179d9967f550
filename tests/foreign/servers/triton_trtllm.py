"""The models of a TensorRT-LLM repository: `preprocessing`, `tensorrt_llm` and `postprocessing`, which the ensemble
joins, and `tensorrt_llm_bls`, which does their work alone. A token id is the code of a character."""

from __future__ import annotations

import itertools
import traceback
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from tests.foreign import engine
from tests.foreign.servers.triton_base import Model, Request, texts


def int32(name: str, *values: int) -> Any:
    return pb_utils.Tensor(name, np.array([values], dtype=np.int32))


class Preprocessing(Model):
    def answer(self, request: Request) -> None:
        prompt = request.first("QUERY")
        stop = request.all("STOP_WORDS_DICT") or []
        # As in TensorRT-LLM: the ids of all words, and the ends of each word.
        ids = [ord(character) for word in stop for character in word] or [0]
        ends = [sum(map(len, stop[: n + 1])) for n in range(len(stop))]
        words = np.array([[ids, ends + [-1] * (len(ids) - len(ends))]], dtype=np.int32)
        request.send(
            int32("INPUT_ID", *map(ord, prompt)),
            int32("REQUEST_INPUT_LEN", len(prompt)),
            pb_utils.Tensor("STOP_WORDS_IDS", words),
            int32("REQUEST_OUTPUT_LEN", request.first("REQUEST_OUTPUT_LEN")),
            final=True,
        )


class Engine(Model):
    def answer(self, request: Request) -> None:
        prompt = "".join(map(chr, request.all("input_ids") or []))
        request.note(prompt)
        limit = request.first("request_output_len")
        if limit <= 0:
            raise ValueError("Encountered an error in forward function: maxNewTokens must be positive")
        self._generate(request, prompt, limit)

    def _generate(self, request: Request, prompt: str, limit: int) -> None:
        """With several sequences, each response is a part of one of them."""
        stop, streams = _stop_words(request), bool(request.first("streaming", False))
        n_sequences = request.first("num_return_sequences", 1)
        prefix = "" if request.first("exclude_input_in_output", False) else prompt
        running = {
            number: request.until_cancelled(engine.generate(prompt, limit, stop, keeps_stop=True, choice=number))
            for number in range(n_sequences)
        }
        while running:
            for number, deltas in list(running.items()):
                parts = list(itertools.islice(deltas, 1 if streams else None))
                if not parts:
                    return  # cancelled
                if parts[-1].finish:
                    del running[number]
                text = ("" if streams else prefix) + "".join(part.text for part in parts)
                n_tokens = sum(part.n_tokens for part in parts)
                request.send(*_engine_outputs(request, text, n_tokens, prompt, number), final=not running)


def _stop_words(request: Request) -> list[str]:
    flat = request.all("stop_words_list") or []
    ids, ends = flat[: len(flat) // 2], [end for end in flat[len(flat) // 2 :] if end > 0]
    return ["".join(map(chr, ids[start:end])) for start, end in zip([0, *ends], ends, strict=False)]


def _engine_outputs(request: Request, text: str, n_tokens: int, prompt: str, sequence: int) -> list[Any]:
    outputs = [
        pb_utils.Tensor("output_ids", np.array([[[ord(character) for character in text]]], dtype=np.int32)),
        int32("sequence_length", len(text)),
        int32("batch_index", 0),
        int32("sequence_index", sequence),
    ]
    if request.first("return_num_input_tokens"):
        outputs.append(int32("num_input_tokens", engine.count(prompt)))
    if request.first("return_num_output_tokens"):
        outputs.append(int32("num_output_tokens", n_tokens))
    return outputs


class Postprocessing(Model):
    def answer(self, request: Request) -> None:
        text = "".join(map(chr, request.all("TOKENS_BATCH") or []))
        request.send(pb_utils.Tensor("OUTPUT", np.array([[text.encode()]], dtype=np.object_)), final=True)


class Bls(Model):
    """With the parameter `accumulate_tokens`, each response of a stream has the whole text so far. An error is a
    traceback. The end is an empty response. As the real model, it ignores `num_return_sequences`."""

    def initialize(self, args: dict[str, str]) -> None:
        super().initialize(args)
        parameter = self.config["parameters"].get("accumulate_tokens", {})
        self._accumulates = parameter.get("string_value") == "true"

    def _run(self, request: Request) -> None:
        try:
            self.answer(request)
        except Exception:
            request.fail(traceback.format_exc(), final=False)
        request.end()

    def answer(self, request: Request) -> None:
        prompt = request.first("text_input")
        request.note(prompt)
        stop = [word for word in request.all("stop_words") or [] if word]
        deltas = request.until_cancelled(engine.generate(prompt, request.first("max_tokens"), stop, keeps_stop=True))
        prefix = "" if request.first("exclude_input_in_output", False) else prompt
        text, n_tokens = "", 0
        streams = bool(request.first("stream", False))
        for delta in deltas:
            text, n_tokens = text + delta.text, n_tokens + delta.n_tokens
            if streams:
                part = text if self._accumulates else delta.text
                request.send(*self._outputs(request, part, delta.n_tokens, prompt))
        if not streams:
            # The real model cuts after the stop string here, and only here.
            ends = [text.find(word) + len(word) for word in stop if word in text]
            request.send(*self._outputs(request, prefix + text[: min(ends, default=None)], n_tokens, prompt))

    def _outputs(self, request: Request, text: str, n_tokens: int, prompt: str) -> list[Any]:
        outputs = [
            texts("text_output", text),
            int32("batch_index", 0),
            int32("sequence_index", 0),
        ]
        if request.first("return_num_input_tokens"):
            outputs.append(int32("num_input_tokens", engine.count(prompt)))
        if request.first("return_num_output_tokens"):
            outputs.append(int32("num_output_tokens", n_tokens))
        return outputs
