"""The part of hayhooks' interface that wrappers use, for environments without the package hayhooks.

`install` makes these modules importable as `hayhooks`. Haystack is imported when it is first needed.
"""

from importlib import import_module
from typing import Any

from anyserve_worker.pipelines.wrappers.standin.async_streaming import async_streaming_generator
from anyserve_worker.pipelines.wrappers.standin.base import BasePipelineWrapper
from anyserve_worker.pipelines.wrappers.standin.callbacks import (
    default_on_pipeline_end,
    default_on_tool_call_end,
    default_on_tool_call_start,
)
from anyserve_worker.pipelines.wrappers.standin.conversations import (
    chat_messages_from_openai_response,
    get_input_files,
    get_last_user_input_text,
    get_last_user_message,
    is_user_message,
)
from anyserve_worker.pipelines.wrappers.standin.events import PipelineEvent
from anyserve_worker.pipelines.wrappers.standin.log import log
from anyserve_worker.pipelines.wrappers.standin.streaming import streaming_generator

__all__ = [
    "BasePipelineWrapper",
    "PipelineEvent",
    "async_streaming_generator",
    "chat_messages_from_openai_response",
    "default_on_pipeline_end",
    "default_on_tool_call_end",
    "default_on_tool_call_start",
    "get_input_files",
    "get_last_user_input_text",
    "get_last_user_message",
    "is_user_message",
    "log",
    "streaming_generator",
]


def __getattr__(name: str) -> Any:
    if name in ("Pipeline", "AsyncPipeline"):  # the second is the name of Haystack 2 for an asynchronous pipeline
        return import_module("haystack").Pipeline
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(f"{name} needs the package hayhooks, which isn't installed here")
