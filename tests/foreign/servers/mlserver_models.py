"""Runtimes of MLServer: the contract of mlserver_huggingface's text generation without its pipeline, and one of a user
that streams."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from mlserver import MLModel, types
from mlserver.codecs import StringCodec
from mlserver.codecs.base import find_input_codec

from tests.foreign import engine

PIPELINE_ARGUMENTS = {
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "do_sample",
    "return_full_text",
    "num_return_sequences",
    "stop_strings",
}


class HuggingFace(MLModel):  # type: ignore[misc]  # MLServer is in another environment
    """Every input but `args` and `array_inputs` becomes a keyword argument of the pipeline. An input without the
    parameter `content_type` is a list of texts, whatever its datatype."""

    async def load(self) -> bool:
        self.inputs = [
            types.MetadataTensor(
                name="array_inputs", shape=[-1], datatype="BYTES", parameters=types.Parameters(content_type="str")
            )
        ]
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        arguments = {tensor.name: _decoded(tensor) for tensor in payload.inputs}
        args = arguments.pop("args", [])
        array_inputs = arguments.pop("array_inputs", [])
        positional = [list(array_inputs), *args] if array_inputs else list(args)
        engine.note("request", model=self.name, version="", prompt=_prompt(positional), inputs=arguments)
        # The real runtime calls the pipeline like this too: it blocks the event loop.
        found = _pipeline(*positional, **arguments)
        output = types.ResponseOutput(
            name="output",
            datatype="BYTES",
            shape=[1, 1],
            parameters=types.Parameters(content_type="hg_jsonlist"),
            data=types.TensorData([json.dumps(found).encode()]),
        )
        return types.InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


def _decoded(tensor: types.RequestInput) -> Any:
    content_type = tensor.parameters.content_type if tensor.parameters else None
    if content_type == "raw":
        data = list(tensor.data)
        value = data[0] if len(data) == 1 else data
        return value.decode() if isinstance(value, bytes) else value
    codec = find_input_codec(content_type) if content_type else None
    return (codec or StringCodec).decode_input(tensor)


def _prompt(positional: list[Any]) -> str:
    first = positional[0] if positional else ""
    return str(first[0] if isinstance(first, list) else first)


def _pipeline(*positional: Any, **arguments: Any) -> Any:
    """A pipeline's answer: for a list of texts a list of answers, else one. Raises as transformers does."""
    if unknown := sorted(arguments.keys() - PIPELINE_ARGUMENTS):
        raise ValueError(
            f"The following `model_kwargs` are not used by the model: {unknown} (note: typos in the generate arguments"
            " will also show up in this list)"
        )
    for name, value in arguments.items():
        if isinstance(value, list) and name != "stop_strings":
            raise TypeError(f"'>' not supported between instances of 'list' and 'int' ({name})")
    prompt = _prompt(list(positional))
    limit = int(arguments.get("max_new_tokens", 20))
    stop = arguments.get("stop_strings") or []
    # transformers keeps the stop string.
    deltas = engine.generate(prompt, limit, [stop] if isinstance(stop, str) else stop, keeps_stop=True)
    text = "".join(delta.text for delta in deltas)
    full = {"generated_text": text if arguments.get("return_full_text") is False else prompt + text}
    return [full] if isinstance(positional[0], list) else full


class Streaming(MLModel):  # type: ignore[misc]
    """A user's runtime with names of its own, for both RPCs."""

    async def load(self) -> bool:
        self.inputs = [
            types.MetadataTensor(name="prompt_text", shape=[1], datatype="BYTES"),
            types.MetadataTensor(name="length", shape=[1], datatype="INT32"),
            types.MetadataTensor(name="until", shape=[-1], datatype="BYTES"),
        ]
        self.outputs = [types.MetadataTensor(name="piece", shape=[1], datatype="BYTES")]
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        parts = [delta.text async for delta in self._deltas(payload)]
        return self._response("".join(parts))

    async def predict_stream(
        self, payloads: AsyncIterator[types.InferenceRequest]
    ) -> AsyncIterator[types.InferenceResponse]:
        async for payload in payloads:
            async for delta in self._deltas(payload):
                yield self._response(delta.text)

    async def _deltas(self, payload: types.InferenceRequest) -> AsyncIterator[engine.Delta]:
        inputs = {tensor.name: tensor for tensor in payload.inputs}
        prompt = StringCodec.decode_input(inputs["prompt_text"])[0]
        limit = int(inputs["length"].data[0]) if "length" in inputs else None
        stop = StringCodec.decode_input(inputs["until"]) if "until" in inputs else []
        engine.note("request", model=self.name, version="", prompt=prompt, inputs=sorted(inputs))
        async for delta in until_cancelled(engine.generate(prompt, limit, stop)):
            yield delta

    def _response(self, text: str) -> types.InferenceResponse:
        output = types.ResponseOutput(name="piece", datatype="BYTES", shape=[1], data=types.TensorData([text.encode()]))
        return types.InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


async def until_cancelled(deltas: Iterator[engine.Delta]) -> AsyncIterator[engine.Delta]:
    """Yields the deltas, which another thread computes; writes into the log if the server gives up before the end."""
    n_tokens = 0
    is_complete = False
    try:
        while True:
            delta = await asyncio.get_running_loop().run_in_executor(None, functools.partial(next, deltas, None))
            if delta is None:
                break
            n_tokens += delta.n_tokens
            yield delta
        is_complete = True
    except engine.EngineError:
        is_complete = True
        raise
    finally:
        engine.note("ended" if is_complete else "cancelled", tokens=n_tokens)
