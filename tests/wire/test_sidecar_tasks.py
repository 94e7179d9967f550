"""Embeddings, rerank, tokenize and detokenize, from HTTP to a scripted worker over real gRPC."""

import asyncio
import base64
import json
import struct
from collections.abc import Iterable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse, Model

from openai_server.api import schemas_tasks
from openai_server.backends.mailbox import PROMPTS_IN_FLIGHT
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.examples import examples
from tests.shapes import exact
from tests.wire.fake_worker import PROMPT_TASKS, FakeWorker, Infer, Refusal, hangs, inputs_of, message, refuses
from tests.wire.sidecar import Sidecar, for_all, running

TASKS = list(PROMPT_TASKS)
"""Those of a model with prompts."""
EVERYTHING = {spec.name for task in TASKS for spec in contract.TASKS[task].inputs}


def task_of(request: ModelInferRequest) -> str:
    return request.parameters[contract.PARAM_TASK].string_param


async def infer(request: ModelInferRequest) -> ModelInferResponse:
    """An embedding is [tokens or bytes of the prompt, 0.5]; a score, the document as a number; a token, a byte."""
    tensors = inputs_of(request)
    match task_of(request):
        case contract.TASK_EMBED:
            n = len(tensors["prompt"][0]) if "prompt" in tensors else len(tensors["prompt_token_ids"])
            return message((contract.EMBEDDING, [float(n), 0.5]), (contract.PROMPT_TOKENS, [n]))
        case contract.TASK_RANK:
            return message((contract.SCORE, [float(tensors["document"][0])]), (contract.PROMPT_TOKENS, [3]))
        case contract.TASK_TOKENIZE:
            text = tensors["prompt"][0]
            pieces = [text[i : i + 1] for i in range(len(text))]
            return message((contract.TOKEN_IDS, list(text)), (contract.TOKEN_PIECES, pieces))
        case contract.TASK_DETOKENIZE:
            return message((contract.WHOLE_TEXT, [bytes(tensors["prompt_token_ids"])]))
    raise AssertionError(task_of(request))


def worker(
    script: Infer = infer,
    tasks: str | None = ",".join(TASKS),
    *,
    inputs: Iterable[str] = EVERYTHING,
    models: Iterable[str] = ("tiny",),
    **parameters: str,
) -> FakeWorker:
    """A worker that supports `tasks`; None: it doesn't report them."""
    metadata = {} if tasks is None else {"tasks": tasks}
    return FakeWorker(script, inputs=inputs, models=models, parameters={**metadata, **parameters})


async def post(sidecar: Sidecar, path: str, **body: Any) -> Any:
    """Returns the JSON of a successful response."""
    reply = await sidecar.send("POST", path, body)
    assert reply.status == 200, reply.body
    return reply.json


async def refused(sidecar: Sidecar, path: str, **body: Any) -> tuple[int, str | None, str | None]:
    reply = await sidecar.send("POST", path, body)
    assert reply.error["type"] == ("invalid_request_error" if reply.status < 500 else "server_error")
    return reply.status, reply.error["param"], reply.error["code"]


# ---- Embeddings


@pytest.mark.parametrize(
    ("inputs", "n_tokens"), [("abc", [3]), (["a", "bé"], [1, 3]), ([7, 8], [2]), ([[7], [8, 9]], [1, 2])]
)
async def test_embeddings_accept_each_form_of_input(inputs: object, n_tokens: list[int]) -> None:
    backend = worker()
    async with running(backend) as sidecar:
        reply = await sidecar.send("POST", "/v1/embeddings", {"input": inputs})
    response = exact(CreateEmbeddingResponse, reply.json)
    assert [item.embedding for item in response.data] == [[n, 0.5] for n in n_tokens]
    assert [item.index for item in response.data] == list(range(len(n_tokens)))
    assert (response.model, response.usage.prompt_tokens) == ("tiny", sum(n_tokens))
    assert {task_of(request) for request in backend.requests} == {contract.TASK_EMBED}
    assert len({request.id for request in backend.requests}) == len(n_tokens)


async def test_every_field_of_embeddings_arrives_as_its_tensor() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        response = await post(
            sidecar,
            "/v1/embeddings",
            input="x",
            dimensions=2,
            normalize=False,
            pooling="cls",
            priority=3,
            encoding_format="base64",
        )
    assert struct.unpack("<2f", base64.b64decode(response["data"][0]["embedding"])) == (1.0, 0.5)
    assert inputs_of(backend.requests[0]) == {
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
async def test_a_priority_is_refused_if_the_backend_does_not_support_it(
    path: str, priority: object, status: int
) -> None:
    """0 is the default. A negative number would overtake other requests."""

    async def answers(request: ModelInferRequest) -> ModelInferResponse:
        return await infer(request) if task_of(request) else message((contract.TEXT, [b"a"]))

    backend = worker(answers, inputs=EVERYTHING - {contract.PRIORITY.name})
    async with running(backend) as sidecar:
        reply = await sidecar.send("POST", path, {**PATHS_WITH_PRIORITY[path], "priority": priority})
    assert reply.status == status, reply.body
    if status == 400:
        assert reply.error["param"] == "priority"


async def test_a_reranks_priority_applies_to_each_document() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        await post(sidecar, "/v1/rerank", query="x", documents=["1", "2"], priority=4)
    assert [inputs_of(request)["priority"] for request in backend.requests] == [[4], [4]]


async def test_fields_that_are_not_set_are_left_to_the_model() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        await post(sidecar, "/v1/embeddings", input=[1])
    assert inputs_of(backend.requests[0]) == {"prompt_token_ids": [1]}


async def test_many_inputs_keep_their_order_and_are_not_all_sent_at_once() -> None:
    peak = running_calls = 0

    async def slow(request: ModelInferRequest) -> ModelInferResponse:
        nonlocal peak, running_calls
        running_calls += 1
        peak = max(peak, running_calls)
        await asyncio.sleep(0.001)
        running_calls -= 1
        return await infer(request)

    async with running(worker(slow)) as sidecar:
        response = await post(sidecar, "/v1/embeddings", input=["x" * (1 + i % 7) for i in range(100)])
    assert [item["embedding"][0] for item in response["data"]] == [1 + i % 7 for i in range(100)]
    assert 1 < peak <= PROMPTS_IN_FLIGHT


# ---- Rerank


async def test_documents_are_sorted_by_their_scores() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        for path in ("/v1/rerank", "/rerank"):
            response = await post(sidecar, path, query="q", documents=["1", {"text": "3"}, "2"], top_n=2)
            results = [(result["index"], result["relevance_score"]) for result in response["results"]]
            assert results == [(1, 3.0), (2, 2.0)]
            assert response["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert all(inputs_of(request)["prompt"] == [b"q"] for request in backend.requests)


# ---- Tokens


async def test_tokenize_accepts_the_form_of_llama_server() -> None:
    backend = worker()
    async with running(backend) as sidecar:
        assert await post(sidecar, "/tokenize", content="hé") == {"tokens": [104, 0xC3, 0xA9]}
        response = await post(
            sidecar, "/tokenize", content="hé", with_pieces=True, add_special=True, parse_special=False
        )
    assert response["tokens"] == [
        {"id": 104, "piece": "h"},
        {"id": 0xC3, "piece": [0xC3]},
        {"id": 0xA9, "piece": [0xA9]},
    ]
    assert [(inputs_of(r)["add_special"], inputs_of(r)["parse_special"]) for r in backend.requests] == [
        ([False], [True]),
        ([True], [False]),
    ]


async def test_tokenize_accepts_the_form_of_vllm() -> None:
    backend = worker(context_length="2048", chat_template="{{ messages[0].content }}!")
    async with running(backend) as sidecar:
        response = await post(sidecar, "/tokenize", prompt="h")
        assert response == {"count": 1, "max_model_len": 2048, "tokens": [104]}
        response = await post(sidecar, "/tokenize", messages=[{"role": "user", "content": "h"}], return_token_strs=True)
        assert response == {"count": 2, "max_model_len": 2048, "tokens": [104, 33], "token_strs": ["h", "!"]}
        failed = await refused(sidecar, "/tokenize", messages=[{"role": "user", "content": [{"type": "x"}]}])
        assert failed[:2] == (400, "messages[0].content[0].type")
    assert [inputs_of(request)["add_special"] for request in backend.requests] == [[True], [False]]


async def test_an_empty_text_has_no_tokens_and_invalid_bytes_are_replaced() -> None:
    async with running(worker()) as sidecar:
        assert await post(sidecar, "/tokenize", content="") == {"tokens": []}
        assert await post(sidecar, "/detokenize", tokens=[104, 0xC3]) == {"content": "h\ufffd", "prompt": "h\ufffd"}


async def test_apply_template_returns_the_prompt_of_a_chat() -> None:
    async with running(worker()) as sidecar:
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        prompt = (await post(sidecar, "/apply-template", **chat))["prompt"]
        assert "hi" in prompt
        tool = {"type": "function", "function": {"name": "find_it"}}
        assert "find_it" in (await post(sidecar, "/apply-template", **chat, tools=[tool]))["prompt"]


async def test_tokenizer_info_has_what_the_backend_reports() -> None:
    async with running(worker()) as sidecar:
        assert (await sidecar.get("/tokenizer_info")).json == {}
    reported = {
        "bos_token": "B",
        "eos_token": "E",
        "pad_token": "P",
        "add_bos_token": "false",
        "context_length": "2048",
        "chat_template": "T",
    }
    expected = {
        **{name: reported[name] for name in ("bos_token", "eos_token", "pad_token", "chat_template")},
        "add_bos_token": False,
        "model_max_length": 2048,
    }
    backend = worker(models=["tiny", "org/b"], **cast(Any, reported))
    async with running(backend) as sidecar:
        for query in ("", "?model=org%2Fb", "?model=tiny&x=1", "?model="):
            assert (await sidecar.get(f"/tokenizer_info{query}")).json == expected
        unknown = await sidecar.get("/tokenizer_info?model=none")
        assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
        crowded = await sidecar.get("/tokenizer_info?" + "a=1&" * 100)
        assert (crowded.status, crowded.error["type"]) == (400, "invalid_request_error")


async def test_tokenizer_info_has_the_template_that_replaces_the_models_own() -> None:
    async with running(worker(chat_template="T"), chat_template=for_all("other")) as sidecar:
        assert (await sidecar.get("/tokenizer_info")).json == {"chat_template": "other"}


COUNT = "/v1/chat/completions/input_tokens"


@pytest.mark.parametrize(
    ("parameters", "content", "n"),
    [
        ({"bos_token": "B", "add_bos_token": "true"}, "hi", 4),
        ({"bos_token": "B", "add_bos_token": "false"}, "hi", 3),
        ({"bos_token": "B"}, "hi", 3),
        ({"bos_token": "B", "add_bos_token": "true"}, "Bi", 3),
        ({"bos_token": "B", "add_bos_token": "false"}, "nothing", 1),
        ({"add_bos_token": "true"}, "hi", 3),
        ({}, "nothing", 0),
    ],
)
async def test_the_count_of_a_chat_has_the_bos_that_generation_adds(
    parameters: dict[str, Any], content: str, n: int
) -> None:
    template = "{% if messages[0].content != 'nothing' %}{{ messages[0].content }}!{% endif %}"
    backend = worker(chat_template=template, **parameters)
    async with running(backend) as sidecar:
        for path in (COUNT, COUNT.removeprefix("/v1")):
            counted = await post(sidecar, path, messages=[{"role": "user", "content": content}], max_tokens=5)
            assert counted == {"object": "response.input_tokens", "input_tokens": n}
    assert inputs_of(backend.requests[0])["add_special"] == [False]


async def test_a_chat_is_counted_with_its_tools_options_and_plain_spans() -> None:
    tool = {"type": "function", "function": {"name": "find_it"}}
    template = "{{ extra }}{% for m in messages %}<|x|>{{ m.content }}{% endfor %}{{ tools | tojson }}"
    backend = worker(chat_template=template, control_tokens='["<|x|>"]')
    async with running(backend) as sidecar:
        messages = [{"role": "user", "content": "a<|x|>b"}]
        await post(sidecar, COUNT, messages=messages, tools=[tool], chat_template_kwargs={"extra": "e"})
        rendered = inputs_of(backend.requests[0])
        prompt = rendered["prompt"][0]
        assert prompt.startswith(b"e<|x|>")
        assert b"find_it" in prompt
        [start, end] = rendered["plain_spans"]
        assert prompt[start - 1 : end + 1] == b"a<|x|>b"
        assert (await refused(sidecar, COUNT, messages=messages, top_logprobs=1))[1] == "top_logprobs"


async def test_a_chat_is_not_counted_by_a_backend_that_cannot_tokenize() -> None:
    async with running(worker(tasks="generate")) as sidecar:
        assert (await refused(sidecar, COUNT, messages=[{"role": "user", "content": "x"}]))[0] == 400


# ---- Which model, and its tasks


async def test_the_model_can_be_in_the_path_or_the_body() -> None:
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


async def test_a_request_without_a_model_is_served_after_the_model_was_replaced() -> None:
    async def replaced(request: ModelInferRequest) -> ModelInferResponse:
        if request.model_name != "new":
            raise Refusal("NOT_FOUND", "gone")
        return await infer(request)

    backend = worker(replaced, models=["old"])
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


@pytest.mark.parametrize("task", TASKS)
async def test_a_task_that_the_model_lacks_is_refused_by_name_and_not_sent(task: str) -> None:
    path, body = BODIES[task]
    other_tasks = ",".join(name for name in TASKS if name != task)
    for stream in (False, True) if task == contract.TASK_GENERATE else (None,):
        backend = worker(tasks=other_tasks)
        async with running(backend) as sidecar:
            reply = await sidecar.send("POST", path, body if stream is None else {**body, "stream": stream})
        assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "model", "unsupported_task")
        assert f"the task '{task}'" in reply.error["message"]
        assert backend.requests == []


async def test_a_backend_that_reports_no_tasks_only_generates() -> None:
    backend = worker(tasks=None)
    async with running(backend) as sidecar:
        for task, (path, body) in BODIES.items():
            if task != contract.TASK_GENERATE:
                assert await refused(sidecar, path, **body) == (400, "model", "unsupported_task")
        assert (await sidecar.get("/v1/models")).json["data"][0]["capabilities"] == ["completion"]
    assert backend.requests == []


async def test_a_field_for_which_the_model_has_no_input_is_refused() -> None:
    backend = worker(inputs=["prompt"])
    async with running(backend) as sidecar:
        assert (await refused(sidecar, "/embeddings", input="x", dimensions=3))[1] == "dimensions"
        assert (await refused(sidecar, "/embeddings", input=[1]))[1] == "input"
        assert (await refused(sidecar, "/rerank", query="x", documents=["y"]))[1] == "documents"
        await post(sidecar, "/embeddings", input="x")


async def test_models_list_their_capabilities() -> None:
    backend = worker(
        tasks="generate,embed",
        context_length="2048",
        vocab_size="100",
        embedding_length="8",
        parameter_count="5000000000",
    )
    async with running(backend) as sidecar:
        for path in ("/v1/models/tiny", "/models/tiny"):
            model = (await sidecar.get(path)).json
            Model.model_validate(model, strict=True)
            assert model["max_model_len"] == 2048
            assert model["capabilities"] == ["completion", "embedding"]
            assert model["meta"] == {"n_vocab": 100, "n_embd": 8, "n_params": 5000000000}
        assert (await sidecar.get("/models")).json == (await sidecar.get("/v1/models")).json


async def test_generation_without_v1_in_the_path() -> None:
    async with running(FakeWorker()) as sidecar:
        for path in ("/completions", "/tiny/completions", "/v1/engines/tiny/completions"):
            assert (await post(sidecar, path, prompt="x"))["choices"][0]["text"] == "x"
        for path in ("/chat/completions", "/tiny/chat/completions"):
            response = await post(sidecar, path, messages=[{"role": "user", "content": "x"}])
            assert (response["object"], response["model"]) == ("chat.completion", "tiny")


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
async def test_the_error_names_the_field_that_became_the_refused_tensor(task: str, tensor: str, param: str) -> None:
    path, body = BODIES[task]
    async with running(worker(refuses(Refusal("INVALID_ARGUMENT", "bad", tensor=tensor)))) as sidecar:
        assert await refused(sidecar, path, **body) == (400, param, None)


async def test_a_text_longer_than_the_context_is_refused() -> None:
    script = refuses(Refusal("INVALID_ARGUMENT", "too long", reason=contract.REASON_CONTEXT_LENGTH, tensor="document"))
    async with running(worker(script)) as sidecar:
        refusal = await refused(sidecar, "/rerank", query="x", documents=["y"])
        assert refusal == (400, "documents", "context_length_exceeded")
        # If the worker doesn't name a tensor of this request, the error names the prompt's field.
        assert (await refused(sidecar, "/embeddings", input="x"))[1:] == ("input", "context_length_exceeded")


async def test_a_malformed_response_is_a_bad_gateway() -> None:
    for response in (message(), message((contract.TEXT, [b"x"])), message((contract.TOKEN_IDS, [1]))):

        async def nonsense(_: ModelInferRequest, response: ModelInferResponse = response) -> ModelInferResponse:
            return response

        async with running(worker(nonsense)) as sidecar:
            for task in (contract.TASK_EMBED, contract.TASK_RANK):
                path, body = BODIES[task]
                assert (await refused(sidecar, path, **body))[0] == 502


async def test_usage_is_null_if_the_backend_reports_no_counts() -> None:
    async def uncounted(_: ModelInferRequest) -> ModelInferResponse:
        return message((contract.EMBEDDING, [1.0]))

    async with running(worker(uncounted)) as sidecar:
        assert (await post(sidecar, "/embeddings", input=["x", "y"]))["usage"] is None


async def test_a_client_that_disconnects_cancels_its_calls() -> None:
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
        if inputs_of(request)["prompt"] == [b"bad"]:
            raise Refusal("RESOURCE_EXHAUSTED", "full", reason=contract.REASON_QUEUE_FULL)
        return await hangs(request)

    backend = worker(one_fails)
    async with running(backend) as sidecar:
        reply = await sidecar.send("POST", "/v1/embeddings", {"input": ["a", "bad", *"x" * 50]})
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (429, "queue_full", "1")
        await backend.cancelled.get()


# ---- Arbitrary JSON

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


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies, full=st.booleans())
async def test_any_json_is_answered_or_refused(body: Any, full: bool) -> None:
    async with running(worker()) as sidecar:
        for task, (path, good) in BODIES.items():
            if task == contract.TASK_GENERATE:
                continue
            content = {**body, **good} if full and isinstance(body, dict) else body
            reply = await sidecar.send("POST", path, json.dumps(content).encode())
            if reply.status != 200:
                assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
