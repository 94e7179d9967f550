"""Embeddings, rerank, tokenize and detokenize, from HTTP to a scripted worker over real gRPC."""

import asyncio
import base64
import json
import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse, Model

from openai_server.api import schemas_tasks
from openai_server.backends.mailbox import PROMPTS_IN_FLIGHT
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.shapes import exact
from tests.wire.fake_worker import FakeWorker, Infer, Refusal, hangs, message, refuses, sent
from tests.wire.sidecar import Sidecar, running

EVERYTHING = {spec.name for task in contract.TASKS.values() for spec in task.inputs}


def task_of(request: ModelInferRequest) -> str:
    return request.parameters[contract.PARAM_TASK].string_param


async def infer(request: ModelInferRequest) -> ModelInferResponse:
    """An embedding is [tokens or bytes of the prompt, 0.5]; a score, the document as a number; a token, a byte."""
    given = sent(request)
    match task_of(request):
        case contract.TASK_EMBED:
            n = len(given["prompt"][0]) if "prompt" in given else len(given["prompt_token_ids"])
            return message((contract.EMBEDDING, [float(n), 0.5]), (contract.PROMPT_TOKENS, [n]))
        case contract.TASK_RANK:
            return message((contract.SCORE, [float(given["document"][0])]), (contract.PROMPT_TOKENS, [3]))
        case contract.TASK_TOKENIZE:
            text = given["prompt"][0]
            pieces = [text[i : i + 1] for i in range(len(text))]
            return message((contract.TOKEN_IDS, list(text)), (contract.TOKEN_PIECES, pieces))
        case contract.TASK_DETOKENIZE:
            return message((contract.WHOLE_TEXT, [bytes(given["prompt_token_ids"])]))
    raise AssertionError(task_of(request))


def worker(
    script: Infer = infer,
    tasks: str | None = ",".join(contract.TASKS),
    *,
    inputs: Iterable[str] = EVERYTHING,
    models: Iterable[str] = ("tiny",),
    **parameters: str,
) -> FakeWorker:
    """One that can do `tasks`, or does not say what."""
    told = {} if tasks is None else {"tasks": tasks}
    return FakeWorker(script, inputs=inputs, models=models, parameters={**told, **parameters})


async def post(sidecar: Sidecar, path: str, **body: Any) -> Any:
    """The answer to a request that is none of a client's errors."""
    reply = await sidecar.send("POST", path, body)
    assert reply.status == 200, reply.body
    return reply.json


async def refused(sidecar: Sidecar, path: str, **body: Any) -> tuple[int, str | None, str | None]:
    reply = await sidecar.send("POST", path, body)
    assert reply.error["type"] == ("invalid_request_error" if reply.status < 500 else "server_error")
    return reply.status, reply.error["param"], reply.error["code"]


# ---- Embeddings


@pytest.mark.parametrize(
    ("given", "n_tokens"), [("abc", [3]), (["a", "bé"], [1, 3]), ([7, 8], [2]), ([[7], [8, 9]], [1, 2])]
)
async def test_embeddings_of_each_form_of_input(given: object, n_tokens: list[int]) -> None:
    backend = worker()
    async with running(backend) as sidecar:
        reply = await sidecar.send("POST", "/v1/embeddings", {"input": given})
    response = exact(CreateEmbeddingResponse, reply.json)
    assert [item.embedding for item in response.data] == [[n, 0.5] for n in n_tokens]
    assert [item.index for item in response.data] == list(range(len(n_tokens)))
    assert (response.model, response.usage.prompt_tokens) == ("tiny", sum(n_tokens))
    assert {task_of(request) for request in backend.requests} == {contract.TASK_EMBED}
    assert len({request.id for request in backend.requests}) == len(n_tokens)


async def test_every_field_of_embeddings_arrives_as_its_tensor() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        told = await post(
            sidecar,
            "/v1/embeddings",
            input="x",
            dimensions=2,
            normalize=False,
            pooling="cls",
            priority=3,
            encoding_format="base64",
        )
    assert struct.unpack("<2f", base64.b64decode(told["data"][0]["embedding"])) == (1.0, 0.5)
    assert sent(backend.requests[0]) == {
        "prompt": [b"x"],
        "dimensions": [2],
        "normalize": [False],
        "pooling": [b"cls"],
        "priority": [3],
    }


PATHS_WITH_PRIORITY: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/embeddings": {"input": "x"},
    "/v1/rerank": {"query": "x", "documents": ["1"]},
}


@pytest.mark.parametrize("path", PATHS_WITH_PRIORITY)
@pytest.mark.parametrize(("priority", "status"), [(None, 200), (0, 200), (1, 400), (-1, 400), (2**31, 400), ("1", 400)])
async def test_a_priority_that_a_backend_can_not_meet(path: str, priority: object, status: int) -> None:
    """0 asks for what happens anyway. A negative number would overtake others."""

    async def answers(request: ModelInferRequest) -> ModelInferResponse:
        return await infer(request) if task_of(request) else message((contract.TEXT, [b"a"]))

    backend = worker(answers, inputs=EVERYTHING - {contract.PRIORITY.name})
    async with running(backend) as sidecar:
        reply = await sidecar.send("POST", path, {**PATHS_WITH_PRIORITY[path], "priority": priority})
    assert reply.status == status, reply.body
    if status == 400:
        assert reply.error["param"] == "priority"


async def test_the_priority_of_a_rerank() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        await post(sidecar, "/v1/rerank", query="x", documents=["1", "2"], priority=4)
    assert [sent(request)["priority"] for request in backend.requests] == [[4], [4]]


async def test_what_is_not_said_is_left_to_the_model() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        await post(sidecar, "/v1/embeddings", input=[1])
    assert sent(backend.requests[0]) == {"prompt_token_ids": [1]}


async def test_many_inputs_keep_their_order_and_are_not_all_sent_at_once() -> None:
    most = now = 0

    async def slow(request: ModelInferRequest) -> ModelInferResponse:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return await infer(request)

    async with running(worker(slow)) as sidecar:
        told = await post(sidecar, "/v1/embeddings", input=["x" * (1 + i % 7) for i in range(100)])
    assert [item["embedding"][0] for item in told["data"]] == [1 + i % 7 for i in range(100)]
    assert 1 < most <= PROMPTS_IN_FLIGHT


# ---- Rerank


async def test_documents_are_ranked() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        for path in ("/v1/rerank", "/rerank"):
            told = await post(sidecar, path, query="q", documents=["1", {"text": "3"}, "2"], top_n=2)
            results = [(result["index"], result["relevance_score"]) for result in told["results"]]
            assert results == [(1, 3.0), (2, 2.0)]
            assert told["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert all(sent(request)["prompt"] == [b"q"] for request in backend.requests)


# ---- Tokens


async def test_tokens_in_llama_servers_form() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        assert await post(sidecar, "/tokenize", content="hé") == {"tokens": [104, 0xC3, 0xA9]}
        told = await post(sidecar, "/tokenize", content="hé", with_pieces=True, add_special=True, parse_special=False)
    assert told["tokens"] == [{"id": 104, "piece": "h"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA9, "piece": [0xA9]}]
    assert [(sent(r)["add_special"], sent(r)["parse_special"]) for r in backend.requests] == [
        ([False], [True]),
        ([True], [False]),
    ]


async def test_tokens_in_vllms_form() -> None:
    backend = worker(context_length="2048", chat_template="{{ messages[0].content }}!")
    async with running(backend) as sidecar:
        told = await post(sidecar, "/tokenize", prompt="h")
        assert told == {"count": 1, "max_model_len": 2048, "tokens": [104]}
        told = await post(sidecar, "/tokenize", messages=[{"role": "user", "content": "h"}], return_token_strs=True)
        assert told == {"count": 2, "max_model_len": 2048, "tokens": [104, 33], "token_strs": ["h", "!"]}
        failed = await refused(sidecar, "/tokenize", messages=[{"role": "user", "content": [{"type": "x"}]}])
        assert failed[:2] == (400, "messages[0].content[0].type")
    assert [sent(request)["add_special"] for request in backend.requests] == [[True], [False]]


async def test_a_text_without_tokens_and_back() -> None:
    async with running(worker()) as sidecar:
        assert await post(sidecar, "/tokenize", content="") == {"tokens": []}
        assert await post(sidecar, "/detokenize", tokens=[104, 0xC3]) == {"content": "h\ufffd", "prompt": "h\ufffd"}


async def test_the_prompt_of_a_chat() -> None:
    async with running(worker()) as sidecar:
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        prompt = (await post(sidecar, "/apply-template", **chat))["prompt"]
        assert "hi" in prompt
        tool = {"type": "function", "function": {"name": "find_it"}}
        assert "find_it" in (await post(sidecar, "/apply-template", **chat, tools=[tool]))["prompt"]


# ---- Which model, and what it can do


async def test_the_model_that_is_asked() -> None:
    backend = worker(models=["first", "org/second"])
    async with running(backend) as sidecar:
        for path, model in (
            ("/v1/embeddings", "org/second"),
            ("/embeddings", "org/second"),
            ("/org/second/embeddings", None),
            ("/v1/engines/org/second/embeddings", None),
        ):
            assert (await post(sidecar, path, input="x", model=model))["model"] == "org/second"
        assert (await post(sidecar, "/embeddings", input="x"))["model"] == "first"
        assert await refused(sidecar, "/first/embeddings", input="x", model="other") == (400, "model", None)
        assert await refused(sidecar, "/embeddings", input="x", model="other") == (404, "model", "model_not_found")


async def test_who_names_no_model_does_not_notice_that_it_was_replaced() -> None:
    async def gone(request: ModelInferRequest) -> ModelInferResponse:
        if request.model_name != "new":
            raise Refusal("NOT_FOUND", "gone")
        return await infer(request)

    backend = worker(gone, models=["old"])
    async with running(backend) as sidecar:
        assert (await sidecar.get("/models/old")).status == 200
        backend.models = ("new",)
        assert (await post(sidecar, "/embeddings", input=["a", "b"]))["model"] == "new"
        assert (await refused(sidecar, "/embeddings", input="a", model="old"))[0] == 404


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    contract.TASK_EMBED: ("/v1/embeddings", {"input": "x"}),
    contract.TASK_RANK: ("/v1/rerank", {"query": "x", "documents": ["1"]}),
    contract.TASK_TOKENIZE: ("/tokenize", {"prompt": "x"}),
    contract.TASK_DETOKENIZE: ("/detokenize", {"tokens": [1]}),
    contract.TASK_GENERATE: ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
}


@pytest.mark.parametrize("task", contract.TASKS)
async def test_what_a_model_can_not_do_is_refused_by_name_and_not_sent(task: str) -> None:
    path, body = BODIES[task]
    others = ",".join(name for name in contract.TASKS if name != task)
    for stream in (False, True) if task == contract.TASK_GENERATE else (None,):
        backend = worker(tasks=others)
        async with running(backend) as sidecar:
            reply = await sidecar.send("POST", path, body if stream is None else {**body, "stream": stream})
        assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "model", "unsupported_task")
        assert f"the task '{task}'" in reply.error["message"]
        assert backend.requests == []


async def test_a_backend_that_says_nothing_of_tasks_only_generates() -> None:
    backend = worker(tasks=None)
    async with running(backend) as sidecar:
        for task, (path, body) in BODIES.items():
            if task != contract.TASK_GENERATE:
                assert await refused(sidecar, path, **body) == (400, "model", "unsupported_task")
        assert (await sidecar.get("/v1/models")).json["data"][0]["capabilities"] == ["completion"]
    assert backend.requests == []


async def test_a_field_that_the_model_has_no_input_for_is_refused() -> None:
    backend = worker(inputs=["prompt"])
    async with running(backend) as sidecar:
        assert (await refused(sidecar, "/embeddings", input="x", dimensions=3))[1] == "dimensions"
        assert (await refused(sidecar, "/embeddings", input=[1]))[1] == "input"
        assert (await refused(sidecar, "/rerank", query="x", documents=["y"]))[1] == "documents"
        await post(sidecar, "/embeddings", input="x")


async def test_models_tell_what_they_can_do() -> None:
    backend = worker(
        tasks="generate,embed",
        context_length="2048",
        vocab_size="100",
        embedding_length="8",
        parameter_count="5000000000",
    )
    async with running(backend) as sidecar:
        for path in ("/v1/models/tiny", "/models/tiny"):
            told = (await sidecar.get(path)).json
            Model.model_validate(told, strict=True)
            assert told["max_model_len"] == 2048
            assert told["capabilities"] == ["completion", "embedding"]
            assert told["meta"] == {"n_vocab": 100, "n_embd": 8, "n_params": 5000000000}
        assert (await sidecar.get("/models")).json == (await sidecar.get("/v1/models")).json


async def test_generation_without_v1() -> None:
    async with running(FakeWorker()) as sidecar:
        for path in ("/completions", "/tiny/completions", "/v1/engines/tiny/completions"):
            assert (await post(sidecar, path, prompt="x"))["choices"][0]["text"] == "x"
        for path in ("/chat/completions", "/tiny/chat/completions"):
            told = await post(sidecar, path, messages=[{"role": "user", "content": "x"}])
            assert (told["object"], told["model"]) == ("chat.completion", "tiny")


# ---- Errors


@pytest.mark.parametrize(
    ("task", "tensor", "param"),
    [
        ("embed", "prompt", "input"),
        ("embed", "prompt_token_ids", "input"),
        ("embed", "dimensions", "dimensions"),
        ("rank", "prompt", "query"),
        ("rank", "document", "documents"),
        ("tokenize", "prompt", "prompt"),
        ("detokenize", "prompt_token_ids", "tokens"),
    ],
)
async def test_the_tensor_to_blame_is_told_as_the_field_it_came_from(task: str, tensor: str, param: str) -> None:
    path, body = BODIES[task]
    async with running(worker(refuses(Refusal("INVALID_ARGUMENT", "bad", tensor=tensor)))) as sidecar:
        assert await refused(sidecar, path, **body) == (400, param, None)


async def test_a_text_past_the_context() -> None:
    script = refuses(Refusal("INVALID_ARGUMENT", "too long", reason=contract.REASON_CONTEXT_LENGTH, tensor="document"))
    async with running(worker(script)) as sidecar:
        told = await refused(sidecar, "/rerank", query="x", documents=["y"])
        assert told == (400, "documents", "context_length_exceeded")
        # Without a word about the tensor that is known there, it is the prompt.
        assert (await refused(sidecar, "/embeddings", input="x"))[1:] == ("input", "context_length_exceeded")


async def test_an_answer_that_makes_no_sense_is_a_bad_gateway() -> None:
    for response in (message(), message((contract.TEXT, [b"x"])), message((contract.TOKEN_IDS, [1]))):

        async def nonsense(_: ModelInferRequest, response: ModelInferResponse = response) -> ModelInferResponse:
            return response

        async with running(worker(nonsense)) as sidecar:
            for task in (contract.TASK_EMBED, contract.TASK_RANK):
                path, body = BODIES[task]
                assert (await refused(sidecar, path, **body))[0] == 502


async def test_counts_that_the_backend_does_not_tell_are_not_made_up() -> None:
    async def uncounted(_: ModelInferRequest) -> ModelInferResponse:
        return message((contract.EMBEDDING, [1.0]))

    async with running(worker(uncounted)) as sidecar:
        assert (await post(sidecar, "/embeddings", input=["x", "y"]))["usage"] is None


async def test_a_client_that_goes_away_cancels_its_calls() -> None:
    backend = worker(hangs)
    async with running(backend) as sidecar:
        call = sidecar.start("POST", "/v1/embeddings", {"input": ["a", "b", "c"]})
        ids = {await backend.arrived.get() for _ in range(3)}
        call.disconnect()
        assert {await backend.cancelled.get() for _ in range(3)} == ids
        await call.task
    assert call.reply.status == 499


async def test_the_first_failure_ends_the_request_and_its_other_calls() -> None:
    async def one_fails(request: ModelInferRequest) -> ModelInferResponse:
        if sent(request)["prompt"] == [b"bad"]:
            raise Refusal("RESOURCE_EXHAUSTED", "full", reason=contract.REASON_QUEUE_FULL)
        return await hangs(request)

    backend = worker(one_fails)
    async with running(backend) as sidecar:
        reply = await sidecar.send("POST", "/v1/embeddings", {"input": ["a", "bad", *"x" * 50]})
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (429, "queue_full", "1")
        await backend.cancelled.get()


# ---- Any JSON at all

FIELDS = (
    *("EMBEDDING_FIELDS", "RERANK_FIELDS", "DOCUMENT_FIELDS"),
    *("CONTENT_FIELDS", "PROMPT_FIELDS", "MESSAGES_FIELDS", "DETOKENIZE_FIELDS"),
)
keys = st.sampled_from(sorted({"user", "zzz"}.union(*(getattr(schemas_tasks, name).mapped for name in FIELDS))))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "1", "mean", "float", "é"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
bodies = st.dictionaries(keys, values, max_size=4) | values


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies, full=st.booleans())
async def test_any_json_gets_an_answer_or_is_refused(body: Any, full: bool) -> None:
    async with running(worker()) as sidecar:
        for task, (path, good) in BODIES.items():
            if task == contract.TASK_GENERATE:
                continue
            given = {**body, **good} if full and isinstance(body, dict) else body
            reply = await sidecar.send("POST", path, json.dumps(given).encode())
            if reply.status != 200:
                assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
