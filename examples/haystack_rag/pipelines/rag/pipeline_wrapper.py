"""Answers questions from the files in documents/, with Haystack: finds the best files, writes the prompt, and gets the
answer from the model behind our own sidecar. The names of the files follow the answer.

It is a wrapper in hayhooks' manner, and runs with and without that package.
"""

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from hayhooks import BasePipelineWrapper, async_streaming_generator, get_last_user_message
from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

DOCUMENTS = Path(__file__).parent / "documents"
TEMPLATE = [
    ChatMessage.from_system("Answer the question from the documents, in one or two sentences."),
    ChatMessage.from_user(
        "{% for document in documents %}{{ document.content }}\n{% endfor %}\nQuestion: {{ question }}"
    ),
]
BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1")
API_KEY = os.environ.get("OPENAI_API_KEY", "none")
MODEL = os.environ.get("RAG_MODEL", "llamacpp")  # the first model of the server
FORWARDED = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop")
"""Fields of a request that the model behind this pipeline gets."""


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        store = InMemoryDocumentStore()
        store.write_documents(
            [
                Document(content=path.read_text(encoding="utf-8"), meta={"file": path.name})
                for path in sorted(DOCUMENTS.glob("*.md"))
            ]
        )
        self.pipeline = Pipeline()
        self.pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=2))
        self.pipeline.add_component("prompt", ChatPromptBuilder(template=TEMPLATE, required_variables="*"))
        self.pipeline.add_component(
            "llm",
            OpenAIChatGenerator(
                api_base_url=BASE_URL,
                api_key=Secret.from_token(API_KEY),
                model=MODEL,
                # The last chunk then has the token counts, which become the usage of this pipeline's answer.
                generation_kwargs={"stream_options": {"include_usage": True}},
                timeout=120.0,
                max_retries=0,  # the sidecar retries
            ),
        )
        self.pipeline.connect("retriever.documents", "prompt.documents")
        self.pipeline.connect("prompt.prompt", "llm.messages")

    async def run_chat_completion_async(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        if body["model"] == MODEL:
            raise RuntimeError(f"{MODEL} is this pipeline, which would call itself: set RAG_MODEL")
        question = text_of(get_last_user_message(messages))
        return async_streaming_generator(
            pipeline=self.pipeline,
            pipeline_run_args={
                "retriever": {"query": question},
                "prompt": {"question": question},
                "llm": {"generation_kwargs": {name: body[name] for name in FORWARDED if name in body}},
            },
            include_outputs_from={"retriever"},
            on_pipeline_end=sources,
        )


def text_of(content: str | list[dict[str, Any]] | None) -> str:
    """Returns the text of a message, whose content is a text, a list of parts, or absent."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def sources(result: dict[str, Any]) -> str:
    """Returns the end of the answer: the documents of the prompt, the best one first."""
    return "\n\nSources: " + ", ".join(document.meta["file"] for document in result["retriever"]["documents"])
