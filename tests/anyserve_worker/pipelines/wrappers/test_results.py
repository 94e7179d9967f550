"""Wrappers may answer with methods or functions, blocking or asynchronous, at once or piece by piece."""

from pathlib import Path

import pytest

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.core.events import Finish, Text
from tests.anyserve_worker.pipelines.wrappers.wrappers import events, request, started, text, write_wrapper

ANSWERS = {
    "text": "def run_chat_completion(model, messages, body): return f'Hello {model}'",
    "generator": "def run_chat_completion(model, messages, body): yield 'Hello '; yield model",
    "iterator": "def run_chat_completion(model, messages, body): return iter(['Hello ', model])",
    "async text": "async def run_chat_completion_async(model, messages, body): return f'Hello {model}'",
    "async generator": """
        async def run_chat_completion_async(model, messages, body):
            async def pieces():
                yield 'Hello '
                yield model
            return pieces()
    """,
    "async function with yield": """
        async def run_chat_completion_async(model, messages, body):
            yield 'Hello '
            yield model
    """,
    "async function that returns a blocking generator": """
        async def run_chat_completion_async(model, messages, body):
            return (piece for piece in ('Hello ', model))
    """,
    "blocking function that returns a coroutine": """
        def run_chat_completion(model, messages, body):
            async def answer():
                return f'Hello {model}'
            return answer()
    """,
    "blocking function that returns an async generator": """
        def run_chat_completion(model, messages, body):
            async def pieces():
                yield 'Hello '
                yield model
            return pieces()
    """,
    "coroutine of a coroutine": """
        async def run_chat_completion_async(model, messages, body):
            async def answer():
                return f'Hello {model}'
            return answer()
    """,
    "method": """
        class PipelineWrapper:
            def setup(self):
                self.greeting = 'Hello'
            def run_chat_completion(self, model, messages, body):
                return f'{self.greeting} {model}'
    """,
    "fewer parameters": "def run_chat_completion(model): return f'Hello {model}'",
    "any keywords": "def run_chat_completion(**keywords): return f'Hello {keywords[\"model\"]}'",
}


@pytest.mark.parametrize("source", ANSWERS.values(), ids=ANSWERS.keys())
async def test_every_kind_of_answer_becomes_text(tmp_path: Path, source: str) -> None:
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    answer = await events(pipeline)
    assert "".join(event.text for event in answer if isinstance(event, Text)) == "Hello greeter"
    assert answer[-1] == Finish("stop")


async def test_the_asynchronous_method_is_preferred(tmp_path: Path) -> None:
    source = """
        def run_chat_completion(model, messages, body): return 'blocking'
        async def run_chat_completion_async(model, messages, body): return 'asynchronous'
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    assert await text(pipeline) == "asynchronous"


async def test_several_choices_are_refused(tmp_path: Path) -> None:
    pipeline, _ = await started(write_wrapper(tmp_path, ANSWERS["text"]))
    with pytest.raises(InvalidInput) as refused:
        await events(pipeline, request({"n": 2}))
    assert refused.value.field == "n"
