"""The callbacks of a wrapper for what happens in a stream."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from anyserve_worker.pipelines.wrappers.standin.log import log


@dataclass(frozen=True)
class ChunkCallbacks:
    """An exception of a callback is logged, and the stream goes on."""

    on_tool_call_start: Callable[[str, dict[str, Any], str | None], Any] | None = None
    on_tool_call_end: Callable[[str, dict[str, Any], str, bool], Any] | None = None
    on_reasoning: Callable[[str, dict[str, Any] | None], Any] | None = None
    on_pipeline_end: Callable[[Any], str | None] | None = None

    def items(self, chunk: Any) -> Iterator[Any]:
        """Yields the results of the callbacks, and then the chunk."""
        if self.on_tool_call_start:
            for call in getattr(chunk, "tool_calls", None) or ():
                if call.tool_name:
                    yield from _results(self.on_tool_call_start, call.tool_name, _arguments(call), call.id)
        result = getattr(chunk, "tool_call_result", None)
        if self.on_tool_call_end and result:
            origin, text = result.origin, result.result
            text = text if isinstance(text, str) else str(text)
            yield from _results(self.on_tool_call_end, origin.tool_name, origin.arguments, text, bool(result.error))
        reasoning = getattr(chunk, "reasoning", None)
        if self.on_reasoning and reasoning is not None:
            yield from _results(self.on_reasoning, reasoning.reasoning_text, reasoning.extra)
        yield chunk

    def end_items(self, result: Any) -> Iterator[Any]:
        """The text that is returned at the end of the pipeline, as a chunk."""
        if self.on_pipeline_end:
            for text in _results(self.on_pipeline_end, result):
                yield import_module("haystack.dataclasses").StreamingChunk(content=text)


def _results(callback: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    try:
        result = callback(*arguments)
    except Exception as error:
        log.opt(exception=True).error("a callback of a stream failed: {}", type(error).__name__)
        return
    if result:
        yield from result if isinstance(result, list) else [result]


def _arguments(call: Any) -> dict[str, Any]:
    """The arguments that came with the call's name: often none yet."""
    try:
        value = json.loads(call.arguments or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
