"""The work of each task's endpoint, with a fake task instead of calls to the backend."""

from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from msgspec import to_builtins

from openai_server.access.caps import Caps
from openai_server.api.embeddings import request as embeddings
from openai_server.api.embeddings.endpoint import embed
from openai_server.api.rerank import request as ranking
from openai_server.api.rerank.endpoint import rerank
from openai_server.api.tasks import Task
from openai_server.api.tokens import request as tokens
from openai_server.api.tokens.work import MANY_TOKENS, apply_template, count, detokenize, tokenize
from openai_server.backends.dialects.base import Target
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.prompting.chat_prompt import ChatPrompt

MODEL = cast(Any, SimpleNamespace(name="m", parameters={}, input_names=EVERYTHING, context_length=9))


class FakePlanner:
    async def prompt(self, turn: Any, *_: object, caller: str) -> ChatPrompt:
        return ChatPrompt(f"{caller}: {turn.messages[0].content}")


class FakeThreads:
    n_runs = 0

    async def run(self, caller: str, work: Callable[..., Any], *arguments: Any) -> Any:
        self.n_runs += 1
        return work(*arguments)


class FakeTask:
    """Returns `results` instead of calling the backend. `tokenizer` is the model's local one."""

    def __init__(self, *results: Any, tokenizer: Any = None) -> None:
        self.id = "id"
        self.context = SimpleNamespace(caller="caller")
        self.services = SimpleNamespace(
            planner=FakePlanner(), threads=FakeThreads(), tokenizers=SimpleNamespace(get=lambda _: tokenizer)
        )
        self.calls: Sequence[Any] = ()
        self.performed: tuple[str, str | None] | None = None
        self._results = list(results)

    async def perform(self, task: str, model: str | None, work: Callable[[Any], Awaitable[Any]], params: Any) -> Any:
        self.performed = (task, model)
        return await work(MODEL)

    async def infer(self, calls: Sequence[Any], model: Any, read: Any) -> Any:
        self.calls = calls
        return self._results

    def priority(self, requested: int | None, _: object) -> int | None:
        return requested

    def target(self, model: Any) -> Target:
        return Target(model.name, model.input_names, self.id)

    def with_targets(self, texts: Sequence[Any], model: Any) -> list[tuple[Any, Target]]:
        return [(text, self.target(model)) for text in texts]


async def answer(work: Any, parse: Any, body: bytes, task: FakeTask) -> Any:
    return to_builtins(await work(cast(Task, task), parse(body, Caps())))


async def test_embeddings_are_returned_with_their_usage() -> None:
    task = FakeTask(("AAAA", 2), ("AAAB", 3))
    payload = await answer(embed, embeddings.parse, b'{"input":["a","b"],"model":"x","encoding_format":"base64"}', task)
    assert task.performed == ("embed", "x")
    assert len(task.calls) == 2
    assert [item["embedding"] for item in payload["data"]] == ["AAAA", "AAAB"]
    assert (payload["model"], payload["usage"]["total_tokens"]) == ("m", 5)


async def test_rerank_sends_a_call_for_each_document() -> None:
    task = FakeTask((0.5, 2), (0.75, None))
    payload = await answer(rerank, ranking.parse, b'{"query":"q","documents":["a",{"text":"b"}]}', task)
    assert task.performed == ("rank", None)
    assert len(task.calls) == 2
    assert [result["index"] for result in payload["results"]] == [1, 0]
    assert (payload["id"], payload["usage"]) == ("id", None)


async def test_tokenize_returns_tokens() -> None:
    for body, n in ((b'{"content":"a"}', None), (b'{"prompt":"a"}', 2)):
        task = FakeTask(([1, 2], [b"a", b"b"]))
        payload = await answer(tokenize, tokens.tokenize, body, task)
        assert task.performed == ("tokenize", None)
        assert (payload["tokens"], payload.get("count")) == ([1, 2], n)
        assert not task.services.threads.n_runs


async def test_a_long_answer_is_built_in_a_thread() -> None:
    ids = list(range(MANY_TOKENS + 1))
    task = FakeTask((ids, [b"a"] * len(ids)))
    payload = await answer(tokenize, tokens.tokenize, b'{"content":"a","with_pieces":true}', task)
    assert len(payload["tokens"]) == len(ids)
    assert task.services.threads.n_runs == 1


async def test_a_conversation_is_rendered_before_it_is_tokenized() -> None:
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    task = FakeTask(([1], [b"a"]))
    assert (await answer(tokenize, tokens.tokenize, body, task))["count"] == 1
    [call] = task.calls
    assert b"caller: hi" in call.SerializeToString()
    task = FakeTask()
    assert await answer(apply_template, tokens.apply_template, body, task) == {"prompt": "caller: hi"}
    assert not task.calls


async def test_the_tokens_of_a_conversation_are_counted() -> None:
    task = FakeTask((7, b"a"))
    payload = await answer(count, tokens.chat_to_count, b'{"messages":[{"role":"user","content":"hi"}]}', task)
    assert payload == {"object": "response.input_tokens", "input_tokens": 7}
    assert task.performed == ("tokenize", None)
    [call] = task.calls
    assert b"caller: hi" in call.SerializeToString()


async def test_detokenize_returns_the_text() -> None:
    task = FakeTask("text")
    assert await answer(detokenize, tokens.detokenize, b'{"tokens":[1]}', task) == {"content": "text", "prompt": "text"}
    assert task.performed == ("detokenize", None)
