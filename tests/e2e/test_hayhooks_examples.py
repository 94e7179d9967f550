"""hayhooks' own example wrappers answer unchanged behind worker and sidecar, with the package hayhooks and without it.

The model of their pipelines is a scripted server. Addresses on the internet are refused at once.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import openai
import pytest

from scripts.fetch import ensure_hayhooks_examples, ensure_haystack_python
from tests.e2e import servers
from tests.e2e.openai_stub import COMPLETION_TOKENS, PROMPT_TOKENS, REASONING, OpenAIStub, openai_stub

QUESTION, WEATHER_QUESTION = "Why is the sky blue?", "How is the weather?"
DETAILS = '<details type="{}" done="true">\n<summary>{}</summary>\n\n{}\n</details>\n\n'
PIPELINE_DETAILS = "\n" + DETAILS.format("Pipeline", "Pipeline completed!", "Pipeline successfully completed!")
TOOL_DETAILS = DETAILS.format(
    "weather_tool",
    "Tool call result for weather_tool",
    "```\nArguments:\n{'location': 'Berlin'}\n\nResponse:\n"
    '{"weather": "mostly sunny", "temperature": 7, "unit": "celsius"}\n```',
)
REFINED = (
    "\n\n**[LLM 2 - Refining the response]**\n\nAnswer to: Here is the previous response:\n\n{} \n\n"
    "Please refine and improve this response. Make it a bit more detailed, clear, and professional. "
    "Please state that you're refining the response in the beginning of your answer. "
)


@dataclass(frozen=True)
class Example:
    question: str
    text: str
    n_model_calls: int = 1
    """Calls whose counts the answer has; 0: none."""


def answer(question: str) -> str:
    return f"Answer to: {question} "


CHATS = {
    "async_question_answer": Example(QUESTION, answer(QUESTION)),
    "async_hybrid_streaming": Example(QUESTION, f"You asked: {QUESTION} ", 0),
    "multi_llm_streaming": Example(QUESTION, answer(QUESTION) + REFINED.format(answer(QUESTION).rstrip()), 2),
    "reasoning_agent": Example(QUESTION, answer(QUESTION)),
    "open_webui_agent_events": Example(QUESTION, answer(QUESTION) + PIPELINE_DETAILS),
    "open_webui_agent_on_tool_calls": Example(WEATHER_QUESTION, TOOL_DETAILS + answer(WEATHER_QUESTION), 2),
    "chainlit_weather_agent": Example(WEATHER_QUESTION, answer(WEATHER_QUESTION), 2),
    "chat_completion_with_file_upload": Example(QUESTION, answer(QUESTION)),
}
RESPONSES = {
    "reasoning_agent": Example(QUESTION, answer(QUESTION)),
    "agent_codex": Example(QUESTION, answer(QUESTION)),
    "responses_with_file_upload": Example(WEATHER_QUESTION, answer(WEATHER_QUESTION), 2),
}
NAMES = sorted({*CHATS, *RESPONSES})

ENDLESS = """
    import time
    from pathlib import Path

    from haystack import Pipeline, component
    from haystack.dataclasses import StreamingChunk
    from hayhooks import BasePipelineWrapper, streaming_generator

    LOG = Path(__file__).parent / "log.txt"

    @component
    class Endless:
        @component.output_types(n=int)
        def run(self, query: str, streaming_callback=None):
            LOG.write_text("begun")
            try:
                while True:
                    streaming_callback(StreamingChunk("more "))
                    time.sleep(0.01)
            finally:
                LOG.write_text("ended")

    class PipelineWrapper(BasePipelineWrapper):
        def setup(self):
            self.pipeline = Pipeline()
            self.pipeline.add_component("endless", Endless())

        def run_chat_completion(self, model, messages, body):
            return streaming_generator(self.pipeline, pipeline_run_args={"endless": {"query": ""}})
"""
FAILING = """
    def run_chat_completion(messages):
        yield "a "
        raise ValueError("a secret of the pipeline")
"""


@dataclass(frozen=True)
class Served:
    url: str
    """The sidecar's base URL, without /v1."""
    client: openai.OpenAI
    worker: servers.Process
    model: OpenAIStub
    folder: Path


@pytest.fixture(scope="module", params=[True, False], ids=["hayhooks", "haystack alone"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("pipelines")
    python = ensure_haystack_python(with_hayhooks=request.param)
    for name in NAMES:
        shutil.copytree(ensure_hayhooks_examples() / name, folder / name)
    for name, source in (("endless", ENDLESS), ("failing", FAILING)):
        (folder / name).mkdir()
        (folder / name / "pipeline_wrapper.py").write_text(dedent(source))
    with ExitStack() as stack:
        model = stack.enter_context(openai_stub())
        environment = {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "none"}
        environment |= {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
        worker, address = stack.enter_context(
            servers.worker("--pipelines", str(folder), "--pipeline-python", str(python))
        )
        _, url = stack.enter_context(servers.sidecar(address))
        client = stack.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
        yield Served(url, client, worker, model, folder)


def chunks(served: Served, name: str, question: str, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a streamed chat, which must end with [DONE]."""
    body = {"model": name, "messages": [{"role": "user", "content": question}], "stream": True, **fields}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert response.status_code == 200
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def counts(n_calls: int) -> tuple[int, int]:
    return n_calls * PROMPT_TOKENS, n_calls * COMPLETION_TOKENS


def test_all_examples_are_listed(served: Served) -> None:
    assert {model.id for model in served.client.models.list()} == {*NAMES, "endless", "failing"}


@pytest.mark.parametrize("name", CHATS)
def test_a_streamed_chat(served: Served, name: str) -> None:
    example = CHATS[name]
    received = chunks(served, name, example.question, stream_options={"include_usage": True})
    choices = [chunk["choices"][0] for chunk in received if chunk["choices"]]
    texts = [text for choice in choices if (text := choice["delta"].get("content")) is not None]
    assert "".join(texts) == example.text
    assert not [choice for choice in choices if choice["delta"].get("tool_calls")]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    usages = [chunk["usage"] for chunk in received if chunk.get("usage")]
    expected = [counts(example.n_model_calls)] if example.n_model_calls else []
    assert [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages] == expected


@pytest.mark.parametrize("name", CHATS)
def test_a_whole_chat(served: Served, name: str) -> None:
    example = CHATS[name]
    question: Any = {"role": "user", "content": example.question}
    completion = served.client.chat.completions.create(model=name, messages=[question])
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == (example.text, "stop")
    assert not choice.message.tool_calls
    if example.n_model_calls:
        assert completion.usage
        usage = completion.usage.prompt_tokens, completion.usage.completion_tokens
        assert usage == counts(example.n_model_calls)


def test_connections_of_a_pipeline_serve_its_later_requests(served: Served) -> None:
    """An event loop for each request would close the connections of AsyncOpenAI with the first."""
    question: Any = {"role": "user", "content": QUESTION}
    for _ in range(3):
        completion = served.client.chat.completions.create(model="async_question_answer", messages=[question])
        assert completion.choices[0].message.content == answer(QUESTION)


@pytest.mark.parametrize("name", RESPONSES)
def test_a_streamed_response(served: Served, name: str) -> None:
    example = RESPONSES[name]
    with served.client.responses.stream(model=name, input=example.question) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert "".join(deltas) == response.output_text == example.text
    assert not [item for item in response.output if item.type == "function_call"]
    assert response.usage
    assert (response.usage.input_tokens, response.usage.output_tokens) == counts(example.n_model_calls)


def test_reasoning_is_separate_from_text(served: Served) -> None:
    received = chunks(served, "reasoning_agent", QUESTION)
    deltas = [chunk["choices"][0]["delta"] for chunk in received if chunk["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == REASONING


def test_calls_of_the_clients_tools_are_returned(served: Served) -> None:
    tool: Any = {"type": "function", "name": "exec_command", "parameters": {"type": "object", "properties": {}}}
    before = len(served.model.bodies)
    response = served.client.responses.create(model="agent_codex", input="Run a command", tools=[tool])
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("exec_command", {"location": "Berlin"})
    tools = [body.get("tools") for body in served.model.bodies[before:]]
    assert any(offered and offered[0]["function"]["name"] == "exec_command" for offered in tools)


def test_calls_of_an_agent_stay_inside_also_where_the_client_has_tools(served: Served) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    received = chunks(served, "chainlit_weather_agent", WEATHER_QUESTION, tools=[tool])
    choices = [chunk["choices"][0] for chunk in received if chunk["choices"]]
    assert not [choice for choice in choices if choice["delta"].get("tool_calls")]
    assert choices[-1]["finish_reason"] == "stop"


HAYSTACK_CLIENT = """
    import sys
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage
    from haystack.utils import Secret

    chunks = []
    generator = OpenAIChatGenerator(
        api_key=Secret.from_token("none"), model="async_question_answer", api_base_url=sys.argv[1], max_retries=0
    )
    for callback in (None, chunks.append):
        reply = generator.run([ChatMessage.from_user("Hello?")], streaming_callback=callback)["replies"][0]
        print(reply.text, reply.meta["finish_reason"], sep="|")
    print("".join(chunk.content for chunk in chunks))
"""


def test_haystacks_generator_is_a_client_of_a_pipeline(served: Served) -> None:
    program = [str(ensure_haystack_python(with_hayhooks=False)), "-c", dedent(HAYSTACK_CLIENT), f"{served.url}/v1"]
    environment = {"HAYSTACK_TELEMETRY_ENABLED": "False", "NO_PROXY": "127.0.0.1"}
    result = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines() == ["Answer to: Hello? |stop", "Answer to: Hello? |stop", "Answer to: Hello? "]


def test_a_pipeline_stops_when_the_client_leaves(served: Served) -> None:
    log = served.folder / "endless" / "log.txt"
    body = {"model": "endless", "messages": [{"role": "user", "content": "Go"}], "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
        assert log.read_text() == "begun"
    deadline = time.monotonic() + 20
    while log.read_text() != "ended":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "Traceback" not in served.worker.output


def test_the_text_of_an_exception_stays_inside(served: Served) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        served.client.chat.completions.create(model="failing", messages=[{"role": "user", "content": "Go"}])
    assert "secret" not in raised.value.response.text
    served.worker.wait_for("ValueError: a secret of the pipeline")
