"""A prompt that is too long is refused with the wording of OpenAI's and vLLM's errors, which programs match."""

from typing import Any

import pytest

from protos import contract
from tests.anyserve_worker.fakes import FakeRunner, FakeVectorRunner
from tests.wire.fake_worker import PROMPT_TASKS, FakeWorker, Refusal, refuses, streams
from tests.wire.sidecar import Reply, Sidecar, app_for, running
from tests.wire.worker import worker

LONG = "x" * 200
OVERFLOW: dict[str, Any] = {"reason": contract.REASON_CONTEXT_LENGTH}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": LONG},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": LONG}]},
    "/v1/embeddings": {"input": LONG},
    "/v1/rerank": {"query": "q", "documents": [LONG]},
}


async def refused(sidecar: Sidecar, path: str, **body: Any) -> dict[str, Any]:
    reply: Reply = await sidecar.send("POST", path, {**BODIES[path], **body})
    assert reply.status == 400, reply.body
    assert reply.error["code"] == "context_length_exceeded"
    return reply.error


@pytest.mark.parametrize("stream", [False, True])
async def test_our_worker_reports_the_numbers(stream: bool) -> None:
    async with worker({"tiny": FakeRunner(n_ctx=100)}) as served, app_for(served.port) as sidecar:
        completion = await refused(sidecar, "/v1/completions", max_tokens=30, stream=stream)
        default = await refused(sidecar, "/v1/completions", stream=stream)
        ids = await refused(sidecar, "/v1/completions", prompt=[1] * 101, max_tokens=1, stream=stream)
        full = await refused(sidecar, "/v1/completions", prompt=[1] * 100, max_tokens=0, stream=stream)
        chat = await refused(sidecar, "/v1/chat/completions", stream=stream)
        limited = await refused(sidecar, "/v1/chat/completions", max_completion_tokens=7, stream=stream)
    assert completion == {
        "message": "This model's maximum context length is 100 tokens. However, you requested 230 tokens (200 in "
        "your prompt; 30 for the completion). Please reduce the length of the prompt.",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "context_length_exceeded",
    }
    assert "you requested 216 tokens (200 in your prompt; 16 for the completion)" in default["message"]
    assert "you requested 102 tokens (101 in your prompt; 1 for the completion)" in ids["message"]
    assert "you requested 101 tokens (100 in your prompt; 1 for the completion)" in full["message"]
    n = 200 + len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
    assert chat["message"] == (
        f"This model's maximum context length is 100 tokens. However, your messages resulted in {n} tokens. Please "
        "reduce the length of the messages."
    )
    assert chat["param"] == "messages"
    assert f"you requested {n + 7} tokens ({n} in the messages, 7 in the completion)" in limited["message"]


async def test_a_prompt_that_the_worker_counts_only_partly_has_a_lower_bound() -> None:
    async with worker({"tiny": FakeRunner(n_ctx=100)}) as served, app_for(served.port) as sidecar:
        error = await refused(sidecar, "/v1/completions", prompt=LONG * 1000)
    assert "context length is 100 tokens. However, your prompt resulted in 2048 tokens or more." in error["message"]


async def test_texts_to_embed_and_to_rank_name_their_fields() -> None:
    embedder, reranker = FakeVectorRunner(n_ctx=100), FakeVectorRunner(n_ctx=100, ranks=True)
    async with (
        worker({"tiny": FakeRunner()}, vector_runners={"tiny": embedder}) as embeds,
        worker({"tiny": FakeRunner()}, vector_runners={"tiny": reranker}) as ranks,
        app_for(embeds.port) as first,
        app_for(ranks.port) as second,
    ):
        input = await refused(first, "/v1/embeddings", input=["short", LONG])
        documents = await refused(second, "/v1/rerank", documents=["short", LONG])
        query = await refused(second, "/v1/rerank", query=LONG, documents=["short"])
    limit = "This model's maximum context length is 100 tokens. However, "
    assert input["message"] == f"{limit}your input resulted in 201 tokens. Please reduce the length of the input."
    assert documents["message"].startswith(f"{limit}your query and one of your documents resulted in 202 tokens.")
    assert documents["param"] == "documents"
    assert query["message"].startswith(f"{limit}your query and one of your documents resulted in 206 tokens.")
    assert query["param"] == "query"


@pytest.mark.usefixtures("both_kinds_of_stream")
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_backends_refusal_has_the_matched_wording(path: str, stream: bool) -> None:
    """Whatever the backend reports, and whether or not its model's context length is known."""
    options = {"stream": stream} if "completions" in path else {}
    tasks = {"tasks": "generate,embed,rank"}
    numbers = {"error_context_length": "50", "error_prompt_tokens": "70"}
    for message, details, expected in (
        ("too long", numbers, "maximum context length is 50 tokens. However, "),
        ("too long", {}, "maximum context length is 4096 tokens. However, "),
        ("too long", dict.fromkeys(numbers, "9" * 1000), "maximum context length is 4096 tokens. However, "),
        ("This model's maximum context length is 9 tokens. However, …", {}, "context length is 9 tokens. However, …"),
    ):
        refusal = Refusal("INVALID_ARGUMENT", message, **OVERFLOW, **details)
        inputs = [spec.name for task in PROMPT_TASKS.values() for spec in task.inputs]
        parameters = {"context_length": "4096", **tasks}
        fake = FakeWorker(refuses(refusal), streams(fails=refusal), inputs=inputs, parameters=parameters)
        async with running(fake) as sidecar:
            error = await refused(sidecar, path, **options)
        assert error["message"].startswith("This model's maximum context length is "), error
        assert expected in error["message"]


async def test_a_backend_that_reports_no_numbers_still_gets_the_matched_wording() -> None:
    async with running(FakeWorker(refuses(Refusal("INVALID_ARGUMENT", "too long", **OVERFLOW)))) as sidecar:
        error = await refused(sidecar, "/v1/chat/completions")
    assert error["message"] == "This model's maximum context length is exceeded by your messages: too long"
