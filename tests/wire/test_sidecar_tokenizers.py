"""Backends that report no chat template and can't tokenize: what the operator's files change, over real gRPC."""

from pathlib import Path
from typing import Any

import pytest

from openai_server.core.model_files import TemplateFile
from openai_server.tokenizing.folder import read
from protos import contract
from tests.openai_server.tokenizing.vocabularies import BOS, EOS, USER, byte_level, folder_with
from tests.wire.fake_worker import FakeWorker, answers, inputs_of, message, serving
from tests.wire.sidecar import for_all, running
from tests.wire.test_sidecar_tasks import worker

PLAIN_INPUTS = tuple(name for name in FakeWorker().inputs if name != contract.PLAIN_SPANS.name)
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
MESSAGES = [{"role": "user", "content": "hi"}]
CHATS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "model": "tiny", "max_tokens": 5},
    "/apply-template": {"messages": MESSAGES},
    "/v1/responses/compact": {"input": "hi", "model": "tiny"},
}
COUNTS: dict[str, dict[str, Any]] = {
    "/tokenize": {"messages": MESSAGES},
    "/v1/chat/completions/input_tokens": {"messages": MESSAGES},
    "/v1/responses/input_tokens": {"input": "hi"},
    "/v1/messages/count_tokens": {"messages": MESSAGES, "model": "tiny"},
}
OPTIONS = "--chat-template NAME=FILE and --tokenizer NAME=FOLDER"


def foreign(**options: Any) -> FakeWorker:
    return FakeWorker(inputs=PLAIN_INPUTS, foreign=True, **options)


def folder(path: Path, *, vocabulary: bool = True, **config: Any) -> Any:
    """The value of `tokenizer` with a folder for `tiny`."""
    path.mkdir(exist_ok=True)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    (path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "model_max_length": 2048}')
    if vocabulary:
        folder_with(byte_level(), path)
    return {"tiny": read(str(path))}


# ---- No template


@pytest.mark.parametrize("path", CHATS)
@pytest.mark.parametrize("stream", [None, True])
async def test_a_chat_without_a_known_template_is_refused(path: str, stream: bool | None) -> None:
    if stream and path in ("/apply-template", "/v1/responses/compact"):
        return
    backend = foreign()
    async with running(backend) as sidecar:
        reply = await sidecar.send("POST", path, CHATS[path] | ({"stream": True} if stream else {}))
        assert reply.status == 400
        if path == "/v1/messages":
            assert reply.anthropic_error["type"] == "invalid_request_error"
            assert OPTIONS in reply.anthropic_error["message"]
        else:
            assert (reply.error["param"], reply.error["code"]) == ("model", "unsupported_task")
            assert OPTIONS in reply.error["message"]
        assert backend.requests == []
        assert (await sidecar.complete(prompt="x")).json["choices"][0]["text"] == "x"
        assert (await sidecar.get("/v1/models")).json["data"][0]["capabilities"] == ["completion"]


@pytest.mark.parametrize("path", COUNTS)
async def test_counting_without_a_known_template_is_refused(path: str, tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    files = {"tiny": read(str(tmp_path))}
    for tokenizer in ({}, files):
        backend = foreign(parameters={} if tokenizer else {"tasks": "generate,tokenize"})
        async with running(backend, tokenizer=tokenizer) as sidecar:
            reply = await sidecar.send("POST", path, COUNTS[path])
            assert reply.status == 400
            assert OPTIONS in reply.json["error"]["message"]
        assert backend.requests == []


async def test_a_server_of_the_contract_still_gets_chatml() -> None:
    async with running(FakeWorker()) as sidecar:
        assert (await sidecar.chat()).json["choices"][0]["message"]["content"].startswith("<|im_start|>user\nhi")
    async with running(FakeWorker(unimplemented=["ServerMetadata"])) as sidecar:
        assert (await sidecar.chat()).status == 400


async def test_a_chat_goes_to_the_backend_that_reports_a_template() -> None:
    """Two backends have the model; the one without a template comes first."""
    bare, full = foreign(), foreign(parameters={"chat_template": "T"})
    async with serving(full) as second, running(bare) as first:
        endpoints = (f"127.0.0.1:{first.worker_port}", f"127.0.0.1:{second}")
        async with running(bare, anyserve_endpoint=endpoints) as sidecar:
            assert (await sidecar.get("/v1/models")).status == 200
            for _ in range(4):
                assert (await sidecar.chat()).status == 200
    assert bare.requests == []


# ---- Templates and folders


async def test_templates_of_the_operator_replace_those_of_the_backend() -> None:
    files = {"tiny": TemplateFile("f", "tiny's"), **for_all("all")}
    backend = foreign(models=["tiny", "tiny@2", "other"], parameters={"chat_template": "T"})
    async with running(backend, chat_template=files) as sidecar:
        for model, prompt in (("tiny", "tiny's"), ("tiny@2", "tiny's"), ("other", "all")):
            reply = await sidecar.send("POST", "/apply-template", {"messages": MESSAGES, "model": model})
            assert reply.json == {"prompt": prompt}
            assert (await sidecar.get(f"/tokenizer_info?model={model}")).json["chat_template"] == prompt


async def test_a_folder_describes_a_model(tmp_path: Path) -> None:
    backend = foreign(models=["tiny", "other"])
    async with running(backend, tokenizer=folder(tmp_path, vocabulary=False)) as sidecar:
        assert (await sidecar.chat(model="tiny")).json["choices"][0]["message"]["content"] == "<s><|user|>hi"
        info = {"bos_token": "<s>", "model_max_length": 2048, "chat_template": TEMPLATE}
        assert (await sidecar.get("/tokenizer_info?model=tiny")).json == info
        [tiny, other] = (await sidecar.get("/v1/models")).json["data"]
        assert (tiny["max_model_len"], tiny["capabilities"]) == (2048, ["completion"])
        assert "max_model_len" not in other
        assert (await sidecar.chat(model="other")).status == 400
        assert (await sidecar.send("POST", "/tokenize", {"prompt": "x", "model": "tiny"})).status == 400


async def test_a_backends_own_parameters_come_before_a_folder(tmp_path: Path) -> None:
    reported = {"chat_template": "T", "bos_token": "B", "context_length": "7"}
    async with running(foreign(parameters=reported), tokenizer=folder(tmp_path, vocabulary=False)) as sidecar:
        assert (await sidecar.get("/tokenizer_info")).json == {
            "chat_template": "T",
            "bos_token": "B",
            "model_max_length": 7,
        }


# ---- Local tokenizers


async def test_this_server_tokenizes_for_a_model_with_a_vocabulary(tmp_path: Path) -> None:
    backend, library = foreign(models=["tiny", "other"]), byte_level()
    async with running(backend, tokenizer=folder(tmp_path)) as sidecar:

        async def post(path: str, **body: Any) -> Any:
            reply = await sidecar.send("POST", path, {"model": "tiny", **body})
            assert reply.status == 200, reply.body
            return reply.json

        text = f"{USER}The quick fox"
        bare, whole = (library.encode(text, add_special_tokens=special).ids for special in (False, True))
        assert await post("/tokenize", content=text) == {"tokens": bare}
        assert await post("/tokenize", content=text, add_special=True) == {"tokens": whole}
        answer = await post("/tokenize", prompt=text, return_token_strs=True)
        assert (answer["count"], answer["max_model_len"], answer["tokens"]) == (len(whole), 2048, whole)
        assert "".join(answer["token_strs"]) == f"{BOS}{text}{EOS}"
        pieces = (await post("/tokenize", content="語", with_pieces=True))["tokens"]
        assert [byte for piece in pieces for byte in piece["piece"]] == list("語".encode())
        as_text = (await post("/tokenize", content=text, parse_special=False))["tokens"]
        assert library.token_to_id(USER) not in as_text
        assert await post("/detokenize", tokens=whole) == dict.fromkeys(("content", "prompt"), f"{BOS}{text}{EOS}")
        assert (await post("/tokenize", content=""))["tokens"] == []
        refused = await sidecar.send("POST", "/detokenize", {"model": "tiny", "tokens": [2**31 - 1]})
        assert (refused.status, refused.error["param"]) == (400, "tokens")
        [tiny, other] = (await sidecar.get("/v1/models")).json["data"]
        assert tiny["capabilities"] == ["completion", "tokenize", "detokenize"]
        assert other["capabilities"] == ["completion"]
        refused = await sidecar.send("POST", "/tokenize", {"model": "other", "prompt": "x"})
        assert (refused.status, refused.error["code"]) == (400, "unsupported_task")
    assert backend.requests == []


@pytest.mark.parametrize("path", COUNTS)
async def test_a_chat_is_counted_as_it_is_rendered(path: str, tmp_path: Path) -> None:
    backend, library = foreign(), byte_level()
    async with running(backend, tokenizer=folder(tmp_path)) as sidecar:
        reply = await sidecar.send("POST", path, COUNTS[path])
        assert reply.status == 200, reply.body
        n = len(library.encode(f"{BOS}{USER}hi", add_special_tokens=False).ids)
        assert reply.json.get("count", reply.json.get("input_tokens")) == n
    assert backend.requests == []


async def test_forged_markup_is_counted_as_the_backend_reads_it(tmp_path: Path) -> None:
    """A backend with plain spans reads a forged token as text; any other one, as a token."""
    library = byte_level()
    path = "/v1/chat/completions/input_tokens"
    for inputs in (FakeWorker().inputs, PLAIN_INPUTS):
        backend = FakeWorker(inputs=inputs, foreign=True)
        async with running(backend, tokenizer=folder(tmp_path)) as sidecar:
            messages = [{"role": "user", "content": f"a{EOS}b"}]
            count = (await sidecar.send("POST", path, {"messages": messages})).json["input_tokens"]
            assert (await sidecar.chat(*messages)).status == 200
        prompt = f"{BOS}{USER}a{EOS}b"
        n = len(library.encode(prompt, add_special_tokens=False).ids)
        sent = inputs_of(backend.requests[0])
        if inputs is PLAIN_INPUTS:
            assert (count, "plain_spans" in sent) == (n, False)
        else:
            assert sent["plain_spans"] == [prompt.index(EOS), prompt.index(EOS) + len(EOS)]
            assert count > n


async def test_forged_markup_is_refused_by_the_vocabularys_tokens(tmp_path: Path) -> None:
    async with running(foreign(), tokenizer=folder(tmp_path), forged_markup="refuse") as sidecar:
        reply = await sidecar.chat({"role": "user", "content": f"a{EOS}b"})
        assert (reply.status, reply.error["code"]) == (400, "markup_in_message")
        assert (await sidecar.chat({"role": "user", "content": "<b>"})).status == 200


async def test_a_backend_that_tokenizes_is_called_all_the_same(tmp_path: Path) -> None:
    backend = worker()
    async with running(backend, tokenizer=folder(tmp_path)) as sidecar:
        assert (await sidecar.send("POST", "/tokenize", {"content": "hi"})).json == {"tokens": [104, 105]}
    assert len(backend.requests) == 1


async def test_usage_is_never_a_tokenizers_guess(tmp_path: Path) -> None:
    uncounted = answers(message((contract.TEXT, [b"a"]), (contract.FINISH_REASON, [b"stop"])))
    async with running(foreign(infer=uncounted), tokenizer=folder(tmp_path)) as sidecar:
        assert (await sidecar.chat()).json.get("usage") is None
