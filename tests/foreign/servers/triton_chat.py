"""The chat model of examples/triton_chat, with the scripted engine instead of its own answers."""

from __future__ import annotations

import json
import runpy
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.foreign import engine

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "examples" / "triton_chat" / "model_repository" / "chat_model"
_Example: Any = runpy.run_path(str(FOLDER / "1" / "model.py"))["TritonPythonModel"]


class Scripted(_Example):  # type: ignore[misc]  # the base is loaded from a file
    def answer(self, messages: list[dict[str, Any]], body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        engine.note("request", messages=messages, body=body)
        prompt = json.dumps(messages, ensure_ascii=False)
        n_tokens = 0
        try:
            for delta in engine.generate(prompt, body.get("max_tokens"), body.get("stop", [])):
                n_tokens += delta.n_tokens
                yield {"type": "text", "text": delta.text}
                if delta.finish:
                    usage = {"prompt_tokens": engine.count(prompt), "completion_tokens": n_tokens}
                    yield {"type": "usage", **usage}
                    yield {"type": "finish", "reason": delta.finish}
        except GeneratorExit:
            engine.note("cancelled", after=n_tokens)
            raise
