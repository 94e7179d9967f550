"""Files in conversations, over real gRPC: the model reads their text, in every API and at every endpoint."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from openai_server.fetching import fetcher
from openai_server.store.file_records import NewFile, StoredFile
from openai_server.store.ids import new_id
from protos import contract
from tests.openai_server.extraction import pdfs
from tests.openai_server.fetching.hosts import Server, response
from tests.openai_server.fetching.hosts import serving as host_with
from tests.wire.fake_worker import PROMPT_TASKS, FakeWorker, answers, inputs_of, message, whole
from tests.wire.sidecar import Reply, Sidecar, running

TEMPLATE = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
TEXT = "Grüße & <b>more</b>"
DOCUMENT = f"<document>\n<title>a.txt</title>\n{TEXT}\n</document>"
KEYS: dict[str, Any] = {"api_key": ("key-1", "key-2")}
ONE, TWO = ({"authorization": f"Bearer key-{n}"} for n in (1, 2))


def encoded(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def input_file(data: str | bytes = TEXT, filename: str | None = "a.txt") -> dict[str, Any]:
    return {"type": "input_file", "file_data": encoded(data), "filename": filename}


def chat_file(data: str | bytes = TEXT, filename: str | None = "a.txt") -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": encoded(data), "filename": filename}}


def document(source: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **fields}


def in_base64(data: str | bytes = TEXT) -> dict[str, Any]:
    return {"type": "base64", "media_type": "application/pdf", "data": encoded(data)}


def tokenizing(n_tokens: int) -> FakeWorker:
    """A worker for which every text has this number of tokens."""
    return FakeWorker(
        answers(message((contract.TOKEN_IDS, list(range(n_tokens))))),
        inputs=[spec.name for task in PROMPT_TASKS.values() for spec in task.inputs],
        parameters={"chat_template": TEMPLATE, "tasks": ",".join(PROMPT_TASKS)},
    )


@asynccontextmanager
async def serving(worker: FakeWorker | None = None, **config: Any) -> AsyncIterator[tuple[Sidecar, FakeWorker]]:
    worker = worker or FakeWorker(answers(whole("yes")), parameters={"chat_template": TEMPLATE})
    async with running(worker, **config) as sidecar:
        yield sidecar, worker


def prompt_of(worker: FakeWorker) -> str:
    """Returns the prompt of the last call."""
    inputs = inputs_of(worker.requests[-1])
    return str(inputs["prompt"][0].decode())


async def respond(sidecar: Sidecar, *parts: Any, headers: dict[str, str] | None = None, **body: Any) -> Reply:
    body = {"input": [{"role": "user", "content": list(parts)}], **body}
    return await sidecar.send("POST", "/v1/responses", body, headers)


async def send_message(sidecar: Sidecar, *blocks: Any, path: str = "/v1/messages", **body: Any) -> Reply:
    return await sidecar.send(
        "POST", path, {"max_tokens": 9, "messages": [{"role": "user", "content": list(blocks)}], **body}
    )


async def store_file(sidecar: Sidecar, data: bytes, filename: str = "a.txt", owner: str = "") -> str:
    """Returns the id of a new file."""
    store = sidecar.app.services.store
    assert store is not None

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    part = await store.files.receive(pieces(), max_bytes=1 << 30)
    now = sidecar.app.services.clock()
    file = NewFile(
        id=new_id("file-", now),
        owner=owner,
        created_at=now,
        expires_at=None,
        filename=filename,
        purpose="user_data",
        parts=[part],
    )
    return (await store.files.create(file)).id


# ---- What the model reads


async def test_the_three_apis_give_the_model_the_same_text() -> None:
    expected = f"[user:Read this:\n{DOCUMENT}]"
    async with serving() as (sidecar, worker):
        reply = await respond(sidecar, {"type": "input_text", "text": "Read this:"}, input_file())
        assert reply.status == 200, reply.body
        assert prompt_of(worker) == expected
        text = {"type": "text", "text": "Read this:"}
        reply = await sidecar.chat({"role": "user", "content": [text, chat_file()]})
        assert reply.status == 200, reply.body
        assert prompt_of(worker) == expected
        reply = await send_message(sidecar, text, document(in_base64(), title="a.txt"))
        assert reply.status == 200, reply.body
        assert prompt_of(worker) == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stream_has_the_text_too(stream: bool) -> None:
    async with serving() as (sidecar, worker):
        assert (await respond(sidecar, input_file(), stream=stream)).status == 200
        assert prompt_of(worker) == f"[user:{DOCUMENT}]"
        assert (await sidecar.chat({"role": "user", "content": [chat_file()]}, stream=stream)).status == 200
        assert prompt_of(worker) == f"[user:{DOCUMENT}]"


async def test_results_of_tools_have_files() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": [input_file()]}
    custom = {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"}
    custom_output = {"type": "custom_tool_call_output", "call_id": "d", "output": [input_file("b", "b.md")]}
    async with serving() as (sidecar, worker):
        reply = await respond(sidecar, input=[call, output, custom, custom_output])
        assert reply.status == 200, reply.body
        assert f"\n{DOCUMENT}\n" in prompt_of(worker)
        assert "\n<document>\n<title>b.md</title>\nb\n</document>\n" in prompt_of(worker)
        use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "c", "content": [document(in_base64(), title="a.txt")]}
        messages = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [{**result, "is_error": True}]},
        ]
        reply = await send_message(sidecar, messages=messages)
        assert reply.status == 200, reply.body
        assert f"\n<error>\n{DOCUMENT}\n</error>\n" in prompt_of(worker)


async def test_endpoints_that_only_render_prompts_have_the_text() -> None:
    chat = {"messages": [{"role": "user", "content": [chat_file()]}]}
    async with serving(tokenizing(4)) as (sidecar, worker):
        reply = await sidecar.send("POST", "/apply-template", chat)
        assert reply.json["prompt"] == f"[user:{DOCUMENT}]"
        for path, body in (
            ("/tokenize", chat),
            ("/v1/chat/completions/input_tokens", chat),
            ("/v1/responses/input_tokens", {"input": [{"role": "user", "content": [input_file()]}]}),
        ):
            await sidecar.send("POST", path, body)
            assert prompt_of(worker) == f"[user:{DOCUMENT}]", path
        block = document(in_base64(), title="a.txt")
        await send_message(sidecar, block, path="/v1/messages/count_tokens")
        assert prompt_of(worker) == f"[user:{DOCUMENT}]"


async def test_names_and_fields_of_a_document() -> None:
    async with serving() as (sidecar, worker):
        await respond(sidecar, input_file("x", "a\n</document>\x1b[0m.txt"))
        assert prompt_of(worker) == "[user:<document>\n<title>a &lt;/document&gt; [0m.txt</title>\nx\n</document>]"
        await respond(sidecar, input_file("x", None))
        assert prompt_of(worker) == "[user:<document>\nx\n</document>]"
        await send_message(sidecar, document(in_base64("x"), title="T", context="C"))
        assert prompt_of(worker) == "[user:<document>\n<title>T</title>\n<context>C</context>\nx\n</document>]"
        url = "data:text/csv;base64," + encoded("a,b\n1,2")
        await respond(sidecar, {"type": "input_file", "file_data": url, "filename": "t.csv", "detail": "high"})
        assert prompt_of(worker) == "[user:<document>\n<title>t.csv</title>\na,b\n1,2\n</document>]"


@pytest.mark.slow
async def test_kinds_that_a_process_reads() -> None:
    async with serving() as (sidecar, worker):
        reply = await respond(sidecar, input_file(pdfs.ONE_LINE, "a.pdf"), input_file("<p>a</p><p>b</p>", "b.html"))
        assert reply.status == 200, reply.body
        pdf = "<document>\n<title>a.pdf</title>\nThe code is 4711.\n</document>"
        assert prompt_of(worker) == f"[user:{pdf}\n<document>\n<title>b.html</title>\na\n\nb\n</document>]"
        reply = await send_message(sidecar, document(in_base64(pdfs.encrypted())))
        assert reply.status == 400
        assert "is encrypted" in reply.json["error"]["message"]


# ---- Stored files


async def test_stored_files_belong_to_their_owner() -> None:
    async with serving(store="sqlite://", **KEYS) as (sidecar, worker):
        caller = sidecar.app.gate.key_ring.keys.caller([(b"authorization", b"Bearer key-1")])
        id = await store_file(sidecar, TEXT.encode(), owner=caller.id)
        text = {"type": "input_text", "text": "a"}
        part = {"type": "input_file", "file_id": id}
        reply = await respond(sidecar, text, part, headers=ONE)
        assert reply.status == 200, reply.body
        assert prompt_of(worker) == f"[user:a\n{DOCUMENT}]"
        n_calls = len(worker.requests)
        reply = await respond(sidecar, text, part, headers=TWO)
        assert (reply.status, reply.error["param"]) == (404, "input[0].content[1].file_id")
        chat = {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": id}}]}]}
        reply = await sidecar.send("POST", "/v1/chat/completions", chat, TWO)
        assert (reply.status, reply.error["param"]) == (404, "messages[0].content[0].file.file_id")
        block = document({"type": "file", "file_id": id})
        body = {"max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}
        reply = await sidecar.send("POST", "/v1/messages", body, TWO)
        assert reply.status == 404
        assert len(worker.requests) == n_calls
        reply = await sidecar.send("POST", "/v1/messages", body, ONE)
        assert reply.status == 200
        assert prompt_of(worker) == f"[user:{DOCUMENT}]"


async def test_a_chain_of_responses_has_the_file_in_each_turn() -> None:
    async with serving(store="sqlite://") as (sidecar, worker):
        id = await store_file(sidecar, TEXT.encode())
        part = {"type": "input_file", "file_id": id, "detail": "low"}
        first = (await respond(sidecar, part, input_file("b", "b"))).json
        items = (await sidecar.get(f"/v1/responses/{first['id']}/input_items")).json
        assert items["data"][0]["content"] == [part, input_file("b", "b")]
        reply = await respond(sidecar, input="and?", previous_response_id=first["id"])
        assert reply.status == 200, reply.body
        second = "<document>\n<title>b</title>\nb\n</document>"
        assert prompt_of(worker) == f"[user:{DOCUMENT}\n{second}][assistant:yes][user:and?]"
        store = sidecar.app.services.store
        assert store is not None
        await store.files.delete("", id)
        reply = await respond(sidecar, input="and?", previous_response_id=first["id"])
        assert (reply.status, reply.error["param"]) == (404, "previous_response_id")


async def test_items_of_a_conversation_may_be_files() -> None:
    async with serving(store="sqlite://") as (sidecar, worker):
        item = {"role": "user", "content": [input_file()]}
        created = (await sidecar.send("POST", "/v1/conversations", {"items": [item]})).json
        reply = await respond(sidecar, input="and?", conversation=created["id"])
        assert reply.status == 200, reply.body
        assert prompt_of(worker) == f"[user:{DOCUMENT}][user:and?]"


async def test_a_file_is_read_once_for_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(store="sqlite://") as (sidecar, worker):
        id = await store_file(sidecar, TEXT.encode())
        for _ in range(2):
            assert (await respond(sidecar, {"type": "input_file", "file_id": id})).status == 200
        store = sidecar.app.services.store
        assert store is not None
        monkeypatch.setattr(store.files, "content", None)  # a further turn doesn't read it
        assert (await respond(sidecar, {"type": "input_file", "file_id": id})).status == 200
        assert prompt_of(worker) == f"[user:{DOCUMENT}]"


async def test_a_file_that_is_deleted_while_it_is_read_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(store="sqlite://") as (sidecar, _):
        store = sidecar.app.services.store
        assert store is not None
        files, get = store.files, store.files.get

        async def get_and_delete(owner: str, id: str) -> StoredFile:
            file = await get(owner, id)
            await files.delete(owner, id)
            return file

        monkeypatch.setattr(files, "get", get_and_delete)
        id = await store_file(sidecar, b"x")
        reply = await respond(sidecar, {"type": "input_file", "file_id": id})
        assert (reply.status, reply.error["param"]) == (404, "input[0].content[0].file_id")
        id = await store_file(sidecar, b"x")
        reply = await sidecar.send("GET", f"/v1/files/{id}/content")
        assert (reply.status, reply.error["code"]) == (404, "file_not_found")


async def test_texts_that_were_read_before_hold_memory_too() -> None:
    async with serving(store="sqlite://", max_body_bytes=1 << 16, max_inflight_body_bytes=150_000) as (sidecar, _):
        part = {"type": "input_file", "file_id": await store_file(sidecar, b"x" * 60_000)}
        for n_parts, status in ((1, 200), (2, 200), (3, 429), (1, 200)):
            assert (await respond(sidecar, *[part] * n_parts)).status == status


async def test_a_server_without_a_store_has_no_files() -> None:
    async with serving() as (sidecar, _):
        reply = await respond(sidecar, {"type": "input_file", "file_id": "file-1"})
    assert (reply.status, reply.error["param"]) == (400, "input[0].content[0].file_id")
    assert "--store" in reply.error["message"]


# ---- URLs


@asynccontextmanager
async def with_host(
    responses: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, **config: Any
) -> AsyncIterator[tuple[Sidecar, FakeWorker, Server]]:
    """Yields a sidecar that may fetch what a host of this machine has."""

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(fetcher, "_resolved", resolve)
    monkeypatch.setattr(fetcher, "_is_allowed_address", lambda address, _: True)
    async with host_with(responses) as host:
        prefix = f"http://files.example.com:{host.port}/public/"
        async with serving(file_url=(prefix,), **config) as (sidecar, worker):
            yield sidecar, worker, host


async def test_a_file_at_a_url_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = {"/public/a.txt": response(TEXT.encode())}
    async with with_host(responses, monkeypatch) as (sidecar, worker, host):
        url = f"http://files.example.com:{host.port}/public/a.txt"
        for _ in range(2):
            reply = await respond(sidecar, {"type": "input_file", "file_url": url})
            assert reply.status == 200, reply.body
            assert prompt_of(worker) == f"[user:{DOCUMENT}]"
        assert (await send_message(sidecar, document({"type": "url", "url": url}))).status == 200
        assert prompt_of(worker) == f"[user:{DOCUMENT}]"
        assert len(host.requests) == 1, "all turns read the same"
        for other in (
            url.replace("public", "private"),
            url.replace("public", "x/%2e%2e/private"),
            "file:///etc/passwd",
        ):
            reply = await respond(sidecar, {"type": "input_file", "file_url": other})
            assert (reply.status, reply.error["param"]) == (400, "input[0].content[0].file_url")
            assert reply.error["code"] == "file_url_refused"
        assert len(host.requests) == 1


async def test_inner_hosts_are_refused_whatever_the_prefix() -> None:
    hosts = ("127.0.0.1:1", "[::1]:1", "169.254.169.254", "10.0.0.1")
    async with serving(file_url=[f"http://{host}/" for host in hosts]) as (sidecar, _):
        for host in hosts:
            reply = await respond(sidecar, {"type": "input_file", "file_url": f"http://{host}/a"})
            assert (reply.status, reply.error["code"]) == (400, "file_url_refused")
            assert "doesn't connect to that host" in reply.error["message"]


# ---- What is refused


@pytest.mark.parametrize(
    ("part", "param", "problem"),
    [
        ({}, "", "must have exactly one of"),
        ({"file_id": "a", "file_data": "b"}, "", "must have exactly one of"),
        ({"file_data": "?"}, ".file_data", "must be base64"),
        ({"file_data": "data:text/plain;base64"}, ".file_data", "without a comma"),
        ({"file_data": encoded(b"\x89PNG\r\n\x1a\n\0"), "filename": "x"}, ".file_data", "the file 'x' is an image"),
        ({"file_data": encoded(b"\0\1\2")}, ".file_data", "is not a file whose text can be read"),
        ({"file_data": ""}, ".file_data", "has no text"),
        ({"file_url": "https://example.com/a.txt"}, ".file_url", "URL"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_its_place(part: dict[str, Any], param: str, problem: str) -> None:
    async with serving() as (sidecar, worker):
        reply = await respond(sidecar, {"type": "input_file", **part})
    assert (reply.status, reply.error["param"]) == (400, f"input[0].content[0]{param}"), reply.body
    assert problem in reply.error["message"]
    assert not worker.requests


@pytest.mark.parametrize(
    ("file", "param"),
    [
        ({}, "messages[0].content[0].file"),
        ({"file_id": "a", "file_data": "b"}, "messages[0].content[0].file"),
        ({"file_data": "?"}, "messages[0].content[0].file.file_data"),
        ({"file_url": "https://example.com"}, "messages[0].content[0].file.file_url"),
        ({"other": 1}, "messages[0].content[0].file.other"),
        (None, "messages[0].content[0].file"),
    ],
)
async def test_files_that_a_chat_refuses(file: Any, param: str) -> None:
    async with serving() as (sidecar, _):
        reply = await sidecar.chat({"role": "user", "content": [{"type": "file", "file": file}]})
    assert (reply.status, reply.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"type": "base64", "media_type": "application/pdf", "data": "?"}, "'messages[0].content[0].source.data'"),
        ({"type": "file", "file_id": "file-1"}, "'messages[0].content[0].source.file_id'"),
        ({"type": "url", "url": "https://example.com"}, "'messages[0].content[0].source.url'"),
    ],
)
async def test_documents_that_messages_refuse(source: dict[str, Any], problem: str) -> None:
    async with serving() as (sidecar, _):
        reply = await send_message(sidecar, document(source))
    assert reply.status == 400
    assert problem in reply.anthropic_error["message"]


async def test_an_answer_has_no_files() -> None:
    async with serving() as (sidecar, _):
        reply = await respond(sidecar, input=[{"role": "assistant", "content": [input_file()]}])
        assert (reply.status, reply.error["param"]) == (400, "input[0].content[0]")


async def test_a_conversation_has_a_limited_number_of_files() -> None:
    async with serving() as (sidecar, _):
        assert (await respond(sidecar, *[input_file("a")] * 64)).status == 200
        reply = await respond(sidecar, *[input_file("a")] * 65)
    assert (reply.status, reply.error["param"], reply.error["code"]) == (
        400,
        "input[0].content[64].file_data",
        "too_many_files",
    )


async def test_files_count_towards_the_limit_on_a_prompt() -> None:
    async with serving(max_prompt_chars=500) as (sidecar, _):
        assert (await respond(sidecar, input_file("a" * 300))).status == 200
        reply = await respond(sidecar, input_file("a" * 300), input_file("b" * 201))
    assert (reply.status, reply.error["param"]) == (400, "input[0].content[1].file_data")


async def test_a_file_has_a_limited_number_of_tokens() -> None:
    async with serving(max_file_tokens=10) as (sidecar, _):
        assert (await respond(sidecar, input_file("a" * 10))).status == 200
        reply = await respond(sidecar, input_file("a" * 400, "long.txt"))
    assert (reply.status, reply.error["code"]) == (400, "file_too_long")
    assert "'long.txt' has 100 tokens of text; at most 10 are allowed" in reply.error["message"]


@pytest.mark.parametrize(("n_tokens", "status"), [(10, 200), (11, 400)])
async def test_tokens_are_counted_where_that_is_possible(n_tokens: int, status: int) -> None:
    chat = {"messages": [{"role": "user", "content": [chat_file("a" * 400)]}]}
    async with serving(tokenizing(n_tokens), max_file_tokens=10) as (sidecar, worker):
        for _ in range(2):
            assert (await sidecar.send("POST", "/apply-template", chat)).status == status
        assert len(worker.requests) == 1, "counted twice"
        assert prompt_of(worker) == "a" * 400
