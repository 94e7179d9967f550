"""`python -m tests.foreign.servers.kserve_server PORT`: KServe's ModelServer with a user's model. It listens on all
addresses."""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from tests.foreign import engine


class Assistant(Model):  # type: ignore[misc]  # KServe is in another environment
    """Names of its own; a tensor that it does not use passes unnoticed."""

    def __init__(self) -> None:
        super().__init__("assistant")
        self.ready = True

    async def get_input_types(self) -> list[dict[str, Any]]:
        return [
            {"name": "query", "datatype": "BYTES", "shape": [1]},
            {"name": "max_length", "datatype": "INT32", "shape": [1]},
        ]

    async def get_output_types(self) -> list[dict[str, Any]]:
        return [{"name": "reply", "datatype": "BYTES", "shape": [1]}]

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        inputs = {tensor.name: tensor.as_numpy().reshape(-1).tolist() for tensor in payload.inputs}
        prompt = _text(inputs["query"][0])
        limit = int(inputs["max_length"][0]) if "max_length" in inputs else None
        engine.note("request", model=self.name, version="", prompt=prompt, inputs=sorted(inputs))
        reply = await self._reply(prompt, limit)
        output = InferOutput(name="reply", shape=[1], datatype="BYTES", data=[reply.encode()])
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[output])

    async def _reply(self, prompt: str, limit: int | None) -> str:
        parts: list[str] = []
        deltas = engine.generate(prompt, limit)
        try:
            while True:
                delta = await asyncio.get_running_loop().run_in_executor(None, functools.partial(next, deltas, None))
                if delta is None:
                    break
                parts.append(delta.text)
        except asyncio.CancelledError:
            engine.note("cancelled", after=len(parts))
            raise
        engine.note("ended", tokens=len(parts))
        return "".join(parts)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]) + 1, grpc_port=int(sys.argv[1]), workers=1).start([Assistant()])
