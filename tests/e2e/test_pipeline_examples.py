"""The folders of pipelines in examples/, started by their command, with real models and clients."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from scripts import fetch, pipeline_packages
from tests.e2e import servers
from tests.e2e.pipeline_examples import EXAMPLES, started
from tests.models import smollm2_path
from tests.packaging.commands import ROOT

pytestmark = pytest.mark.slow

RAG = EXAMPLES / "haystack_rag" / "pipelines"
CHAT = EXAMPLES / "hayhooks_chat" / "pipelines"
FOREIGN_API = EXAMPLES / "foreign_api"
QUESTION: Any = [{"role": "user", "content": "Which moon has lakes of methane?"}]
ANSWER_TOKENS = 60


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def streamed(client: openai.OpenAI, model: str, messages: Any, **fields: Any) -> tuple[list[str], Any, str | None]:
    """Returns the texts of the chunks, the usage, and the finish reason."""
    texts, usage, reason = [], None, None
    with client.chat.completions.create(
        model=model, messages=messages, stream=True, stream_options={"include_usage": True}, **fields
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts += [choice.delta.content] if choice.delta.content else []
                reason = choice.finish_reason or reason
    return texts, usage, reason


# ---- Haystack


@pytest.fixture(scope="module")
def rag() -> Iterator[str]:
    with started("-m", "scripts.run", f"--pipelines={RAG}") as (process, url):
        assert f"curl {url}/v1/chat/completions" in process.output
        assert '"model":"rag"' in process.output
        yield url


def check_answer(text: str) -> None:
    answer, found, sources = text.rpartition("\n\nSources: ")
    assert found, text
    assert "Titan" in answer
    names = sources.split(", ")
    assert names[0] == "titan.md"
    assert all((RAG / "rag" / "documents" / name).is_file() for name in names)


def check_usage(usage: Any) -> None:
    assert usage.prompt_tokens > 200  # of the prompt with the documents, not of the question
    assert 0 < usage.completion_tokens <= ANSWER_TOKENS


def test_the_rag_pipeline_answers_with_its_sources(rag: str) -> None:
    with client_of(rag) as client:
        answer = client.chat.completions.create(
            model="rag",
            messages=QUESTION,
            max_tokens=ANSWER_TOKENS,
            temperature=0,
        )
    check_answer(answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "rag"
    check_usage(answer.usage)


def test_the_rag_pipeline_streams(rag: str) -> None:
    with client_of(rag) as client:
        texts, usage, reason = streamed(client, "rag", QUESTION, max_tokens=ANSWER_TOKENS, temperature=0)
    check_answer("".join(texts))
    assert len(texts) > 5
    assert reason == "stop"
    check_usage(usage)


def test_the_rag_pipeline_takes_messages_with_parts(rag: str) -> None:
    parts = [{"type": "text", "text": QUESTION[0]["content"]}]
    with client_of(rag) as client:
        texts, *_ = streamed(client, "rag", [{"role": "user", "content": parts}], max_tokens=5)
    assert "".join(texts).endswith("\n\nSources: titan.md, ganymede.md")


def test_the_rag_pipeline_answers_in_other_apis(rag: str) -> None:
    with client_of(rag) as client:
        response = client.responses.create(model="rag", input=QUESTION[0]["content"], temperature=0)
        follow_up = client.responses.create(
            model="rag", input="Who discovered Io?", max_output_tokens=20, previous_response_id=response.id
        )
    check_answer(response.output_text)
    assert "Sources: io.md" in follow_up.output_text
    body = {"model": "rag", "max_tokens": ANSWER_TOKENS, "messages": QUESTION}
    message = request(f"{rag}/v1/messages", body)
    assert "Sources: titan.md" in message["content"][0]["text"]


def test_the_model_behind_the_pipeline_answers_too(rag: str) -> None:
    with client_of(rag) as client:
        names = [model.id for model in client.models.list()]
        answer = client.chat.completions.create(model="llamacpp", messages=QUESTION, max_tokens=5)
    assert names == [smollm2_path().stem, "rag"]
    assert "Sources" not in (answer.choices[0].message.content or "")


HAYSTACK_CLIENT = """
import sys
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret

chunks = []
generator = OpenAIChatGenerator(
    api_base_url=sys.argv[1] + "/v1", api_key=Secret.from_token("none"), model="rag", max_retries=0,
    streaming_callback=(lambda chunk: chunks.append(chunk)) if sys.argv[2] == "stream" else None,
    generation_kwargs={"temperature": 0},
)
reply = generator.run([ChatMessage.from_user("Which moon has lakes of methane?")])["replies"][0]
print(reply.text, reply.meta["finish_reason"], len([chunk for chunk in chunks if chunk.content]), sep="|")
"""


@pytest.mark.parametrize("form", ["whole", "stream"])
def test_haystacks_generator_talks_to_the_pipeline(rag: str, form: str) -> None:
    python = pipeline_packages.ensure(RAG)
    assert python
    command = [str(python), "-c", HAYSTACK_CLIENT, rag, form]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={"HAYSTACK_TELEMETRY_ENABLED": "False"}
    )
    assert result.returncode == 0, result.stderr
    text, reason, n_chunks = result.stdout.strip().rsplit("|", 2)
    check_answer(text)
    assert reason == "stop"
    assert (int(n_chunks) > 5) == (form == "stream")


# ---- A client like Open WebUI


def request(url: str, body: Any = None) -> Any:
    with urllib.request.urlopen(_http_request(url, body), timeout=120) as response:
        return json.loads(response.read())


def _http_request(url: str, body: Any) -> urllib.request.Request:
    headers = {"Authorization": "Bearer none", "Content-Type": "application/json", "X-OpenWebUI-User-Name": "Ada"}
    return urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)


def test_open_webui_sees_the_pipeline_as_a_model_and_streams_from_it(rag: str) -> None:
    listed = request(f"{rag}/v1/models")
    assert "rag" in [model["id"] for model in listed["data"]]
    assert all(model["object"] == "model" for model in listed["data"])
    body = {
        "stream": True,
        "model": "rag",
        "messages": [{"role": "system", "content": "The user is Ada."}, *QUESTION],
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "metadata": {"chat_id": "c1"},
    }
    with urllib.request.urlopen(_http_request(f"{rag}/v1/chat/completions", body), timeout=120) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.read().decode().split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    check_answer("".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]))
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    # It also requests a title for the chat, in the background.
    title = {"model": "rag", "messages": QUESTION, "stream": False, "max_completion_tokens": 50}
    assert request(f"{rag}/v1/chat/completions", title)["choices"][0]["message"]["content"]


# ---- The README's pipeline


def test_the_pipeline_of_the_readme_gives_the_answer_that_is_there(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"^mkdir .*?^END$", readme, re.MULTILINE | re.DOTALL)
    assert found
    subprocess.run(["sh", "-c", found[0]], cwd=tmp_path, check=True)
    (shown,) = re.findall(r"the model `(\w+)`, whose answer to \"(.+?)\" is \"(.+?)\"", readme)
    name, question, expected = shown
    with started("-m", "scripts.run", "--model=none", f"--pipelines={tmp_path / 'pipelines'}") as (process, url):
        assert f'"model":"{name}","messages":[{{"role":"user","content":"{question}"}}]' in process.output
        with client_of(url) as client:
            messages: Any = [{"role": "user", "content": question}]
            texts, *_ = streamed(client, name, messages)
    assert "".join(texts) == expected


# ---- hayhooks


@pytest.mark.parametrize("with_hayhooks", [False, True], ids=["without hayhooks", "with hayhooks"])
def test_the_hayhooks_wrapper_streams(with_hayhooks: bool) -> None:
    messages: Any = [{"role": "user", "content": "Do you have rye bread?"}]
    python = [f"--pipeline-python={fetch.ensure_haystack_python(with_hayhooks=True)}"] if with_hayhooks else []
    with started("-m", "scripts.run", f"--pipelines={CHAT}", *python) as (_, url), client_of(url) as client:
        texts, usage, reason = streamed(client, "assistant", messages, max_tokens=20, temperature=0)
        assert len(texts) > 5
        assert reason in ("stop", "length")
        assert 0 < usage.completion_tokens <= 20
        whole = client.chat.completions.create(model="assistant", messages=messages, max_tokens=20, temperature=0)
        assert whole.choices[0].message.content


# ---- Clients that leave


@pytest.mark.parametrize(("folder", "model"), [(RAG, "rag"), (CHAT, "assistant")], ids=["asynchronous", "synchronous"])
def test_the_model_behind_a_pipeline_stops_when_the_client_leaves(folder: Path, model: str) -> None:
    messages: Any = [{"role": "user", "content": "Tell me a very long story about all moons."}]
    with started("-m", "scripts.run", f"--pipelines={folder}") as (process, url), client_of(url) as client:
        # The command's own first request, and that of the pipeline for it.
        servers.eventually(lambda: n_answered(process, "200|499") == 2)
        before = n_answered(process, "499")
        with client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=2000) as stream:
            next(chunk for chunk in stream if chunk.choices[0].delta.content)
        # The client's request, and the pipeline's own request to the sidecar.
        servers.eventually(lambda: n_answered(process, "499") == before + 2, timeout=5)


def n_answered(process: servers.Process, statuses: str) -> int:
    """Chats with these statuses in the sidecar's log; 499 is that of a client that has left."""
    return len(re.findall(rf"POST /v1/chat/completions status=(?:{statuses}) ", process.output))


# ---- APIs


def test_the_foreign_api_answers_through_the_pair() -> None:
    messages: Any = [{"role": "user", "content": "one two three four five six seven"}]
    with started(str(FOREIGN_API / "try_it.py")) as (process, url), client_of(url) as client:
        assert [model.id for model in client.models.list()] == ["your_api"]
        answer = client.chat.completions.create(model="your_api", messages=messages)
        assert answer.choices[0].message.content == "seven six five four three two one"
        texts, *_ = streamed(client, "your_api", messages, max_tokens=5)
        assert "".join(texts) == "seven six five four three"
        assert len(texts) == 5
        assert "a-secret" not in process.output


def test_an_upstream_with_openais_api_is_served_under_its_names(tmp_path: Path) -> None:
    model = f"far-away={smollm2_path()}"
    with servers.worker("--model", model, "--n-ctx", "1024") as (_, address), servers.sidecar(address) as (_, upstream):
        variables = {"UPSTREAM_BASE_URL": f"{upstream}/v1"}
        command = ("-m", "scripts.run", "--model=none", f"--pipelines={FOREIGN_API / 'upstream'}")
        with started(*command, env=variables) as (_, url), client_of(url) as client:
            assert [model.id for model in client.models.list()] == ["far-away"]
            texts, usage, reason = streamed(client, "far-away", QUESTION, max_tokens=8)
            assert len(texts) > 2
            assert usage.completion_tokens == 8
            assert reason == "length"
