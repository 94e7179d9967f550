"""A chat with instructions of its own, as a wrapper of hayhooks: it runs with and without that package.

The method is synchronous: each request runs in a thread, and ends when its client leaves.
"""

import os
from collections.abc import Generator
from typing import Any

from hayhooks import BasePipelineWrapper, log, streaming_generator
from haystack import Pipeline
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret

INSTRUCTIONS = "You are the assistant of a bakery. Answer in one or two friendly sentences."
BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1")
API_KEY = os.environ.get("OPENAI_API_KEY", "none")
MODEL = os.environ.get("ASSISTANT_MODEL", "llamacpp")  # the first model of the server
FORWARDED = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop")
"""Fields of a request that the model behind this pipeline gets."""


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        self.pipeline = Pipeline()
        self.pipeline.add_component(
            "llm",
            OpenAIChatGenerator(
                api_base_url=BASE_URL,
                api_key=Secret.from_token(API_KEY),
                model=MODEL,
                generation_kwargs={"stream_options": {"include_usage": True}},
                timeout=120.0,
                max_retries=0,  # the sidecar retries
            ),
        )

    def run_chat_completion(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> Generator[Any, None, None]:
        if body["model"] == MODEL:
            raise RuntimeError(f"{MODEL} is this pipeline, which would call itself: set ASSISTANT_MODEL")
        log.debug("{} messages for {}", len(messages), model)
        chat = [ChatMessage.from_openai_dict_format(message) for message in messages if message["role"] != "system"]
        return streaming_generator(
            pipeline=self.pipeline,
            pipeline_run_args={
                "llm": {
                    "messages": [ChatMessage.from_system(INSTRUCTIONS), *chat],
                    "generation_kwargs": {name: body[name] for name in FORWARDED if name in body},
                }
            },
        )
