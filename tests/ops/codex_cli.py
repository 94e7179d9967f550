"""`python -m tests.ops.codex_cli`: runs the Codex CLI with a sidecar: turns, tools, an overflow and an interruption.

The package comes from npm (172 MB) into the user's cache. Codex gets a home folder of its own, an empty environment and
no way to other hosts. A small model calls no tools by itself, so a scripted backend stands behind the sidecar for most
steps; the others use the bundled worker.

`--record` writes the requests that Codex sent to tests/wire/recorded/codex.json.
"""

import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from scripts.errors import Fail
from tests.e2e import servers
from tests.models import gemma3_path, smollm2_path
from tests.ops import able_worker
from tests.ops.codex_package import VERSION, Codex, Run, codex, ensure_codex, finish
from tests.ops.recording_proxy import RecordedRequest, RecordingProxy, Trimmer, recording, to_text
from tests.wire.fake_worker import ALL_INPUTS, FakeWorker, hangs_midway, inputs_of, last_token, token

RECORDED = Path(__file__).parent.parent / "wire" / "recorded" / "codex.json"
MODEL = "tiny"
PATCHING_MODEL = "gpt-5.5"
"""Codex gives a model of this name the custom tool apply_patch, and a tool that searches for tools."""
SCRIPTING_MODEL = "gpt-6.1-sol"
"""Codex sends the tools of a model of this name as an input item."""
PATCH = "*** Begin Patch\n*** Add File: note.txt\n+hello\n*** End Patch\n"
CONTEXT_TOKENS = 32768
Script = Callable[[str, int], list[str]]
"""Returns the pieces of the response to a prompt; the second argument is the number of the request, from 0."""


@dataclass
class Rig:
    """Codex, a proxy that records its requests, the sidecar, and a backend."""

    codex: Codex
    proxy: RecordingProxy
    sidecar: servers.Process
    worker: FakeWorker | None = None
    """None with the bundled worker."""

    def check_requests(self, *statuses: int) -> None:
        assert self.proxy.statuses == list(statuses), self.proxy.statuses
        assert {request.path for request in self.proxy.requests} == {"/v1/responses"}


@contextmanager
def rig_for(address: str, *options: str, worker: FakeWorker | None = None, through_proxy: bool = True) -> Iterator[Rig]:
    with ExitStack() as stack:
        process, url = stack.enter_context(servers.sidecar(address, *options))
        proxy = stack.enter_context(recording(url))
        yield Rig(stack.enter_context(codex(proxy.url if through_proxy else url)), proxy, process, worker)


@contextmanager
def scripted(script: Script | None) -> Iterator[Rig]:
    """Yields a rig whose backend follows the script.

    Without a script, it sends one token and then nothing. Codex then has no proxy between it and the sidecar, since the
    proxy notices a closed connection late.
    """
    n_requests = 0

    async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        nonlocal n_requests
        n_requests += 1
        assert script is not None
        for piece in script(inputs_of(request)["prompt"][0].decode(), n_requests - 1):
            yield token(piece)
        yield last_token()

    parameters = {**able_worker.PARAMETERS, "context_length": "1000000"}
    worker = FakeWorker(stream=stream if script else hangs_midway, inputs=ALL_INPUTS, parameters=parameters)
    aliases = [f"--model-alias={name}={MODEL}" for name in (PATCHING_MODEL, SCRIPTING_MODEL)]
    with (
        able_worker.listening(worker) as address,
        rig_for(address, *aliases, worker=worker, through_proxy=script is not None) as rig,
    ):
        yield rig


def call(name: str, **arguments: str) -> list[str]:
    """Returns the pieces of a tool call as models with the Hermes format write it."""
    text = json.dumps({"name": name, "arguments": arguments})
    return ["<tool_call>", text[:20], text[20:], "</tool_call>"]


def flat_name(prompt: str, name: str) -> str:
    """Returns the name that the prompt gives to the tool `name` of a namespace."""
    match = re.search(rf'"name": ?"([^"]*{name})"', prompt)
    assert match, f"no tool {name} in the prompt"
    return match[1]


# ---- Steps


@dataclass
class Steps:
    """Results of the steps."""

    recorded: list[RecordedRequest] = field(default_factory=list)
    homes: dict[str, str] = field(default_factory=dict)

    def keep(self, rig: Rig, *numbers: int) -> None:
        self.recorded += [rig.proxy.requests[number] for number in numbers]
        self.homes[str(rig.codex.home)] = "/home/user"

    def text(self) -> str:
        """A turn with a text."""
        with scripted(lambda prompt, n: ["Hel", "lo."]) as rig:
            run = rig.codex.run(MODEL, "Say hello.")
            assert run.texts == ["Hello."], run.output
            assert run.usage is not None, run.output
            assert (run.usage["input_tokens"], run.usage["output_tokens"]) == (3, 2), run.usage
            rig.check_requests(200)
            return f"the answer is {run.texts[0]!r}, with its usage"

    def tool(self) -> str:
        """A tool call and the turn that follows it, with the reasoning sent back."""

        def script(prompt: str, n: int) -> list[str]:
            if n == 0:
                look = call("exec_command", cmd="echo tool-output-$((6*7))")
                return ["<think>", "I must look.", "</think>", "I look.", *look]
            assert "tool-output-42" in prompt
            return ["Done."]

        with scripted(script) as rig:
            run = rig.codex.run(MODEL, "Look.")
            assert [item["aggregated_output"] for item in run.items("command_execution")] == ["tool-output-42\n"], (
                run.output
            )
            assert run.texts == ["I look.", "Done."], run.output
            rig.check_requests(200, 200)
            (reasoning,) = [item for item in rig.proxy.requests[1].body["input"] if item["type"] == "reasoning"]
            assert reasoning["encrypted_content"], reasoning
            self.keep(rig, 0, 1)
            return "Codex ran the command; the next request had its output and the reasoning"

    def custom_tool(self) -> str:
        """A call of a custom tool with a grammar."""

        def script(prompt: str, n: int) -> list[str]:
            return call("apply_patch", input=PATCH) if n == 0 else ["Done."]

        with scripted(script) as rig:
            run = rig.codex.run(PATCHING_MODEL, "Write a note.", "--sandbox", "workspace-write")
            assert (rig.codex.work / "note.txt").read_text() == "hello\n", run.output
            assert run.texts == ["Done."], run.output
            rig.check_requests(200, 200)
            self.keep(rig, 1)
            return "apply_patch wrote the file"

    def namespace(self) -> str:
        """Two calls in one response, one of them of a tool in a namespace."""

        def script(prompt: str, n: int) -> list[str]:
            if n == 0:
                spawn = call(flat_name(prompt, "spawn_agent"), message="Say hi.")
                return ["I start it.", *spawn, "\n", *call("exec_command", cmd="echo two")]
            return ["Done."]

        with scripted(script) as rig:
            run = rig.codex.run(MODEL, "Start another agent.")
            assert [item["tool"] for item in run.items("collab_tool_call")] == ["spawn_agent"], run.output
            assert len(run.items("command_execution")) == 1, run.output
            assert run.texts[-1] == "Done.", run.output
            assert set(rig.proxy.statuses) == {200}
            follow_up = [
                number
                for number, request in enumerate(rig.proxy.requests)
                if any(item.get("namespace") for item in request.body["input"])
            ]
            assert follow_up, "the call was not sent back with its namespace"
            self.keep(rig, follow_up[0])
            return "Codex started an agent and ran a command"

    def tools_in_the_input(self) -> str:
        """A turn whose tools are an input item."""
        with scripted(lambda prompt, n: ["Hello."]) as rig:
            run = rig.codex.run(SCRIPTING_MODEL, "Say hello.")
            assert run.texts == ["Hello."], run.output
            rig.check_requests(200)
            assert rig.proxy.requests[0].body["input"][0]["type"] == "additional_tools"
            self.keep(rig, 0)
            return "the request with additional_tools is answered"

    def schema(self) -> str:
        """A turn whose last message must match a JSON Schema."""
        with scripted(lambda prompt, n: ['{"answer":', '"red"}']) as rig:
            schema = rig.codex.home / "schema.json"
            answer = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
            schema.write_text(json.dumps({**answer, "additionalProperties": False}))
            run = rig.codex.run(MODEL, "Which colour?", "--output-schema", str(schema))
            assert run.texts == ['{"answer":"red"}'], run.output
            assert rig.worker is not None
            # With tools, the guide is a grammar of the calls and of the schema.
            assert {"json_schema", "lark", "grammar"} & inputs_of(rig.worker.requests[0]).keys()
            rig.check_requests(200)
            self.keep(rig, 0)
            return "the schema reached the backend as a guide"

    def compaction(self) -> str:
        """Codex summarizes a conversation that nears its limit."""

        def script(prompt: str, n: int) -> list[str]:
            return [call("exec_command", cmd="echo one"), ["A summary."], ["Done."]][n] if n < 3 else ["Done."]

        with scripted(script) as rig:
            limits = ("-c", "model_auto_compact_token_limit=4", "-c", "model_context_window=16")
            run = rig.codex.run(MODEL, "Go.", *limits)
            assert run.usage is not None, run.output
            assert set(rig.proxy.statuses) == {200}
            compactions = [n for n, request in enumerate(rig.proxy.requests) if not request.body["tools"]]
            assert compactions, "no request to summarize"
            self.keep(rig, compactions[0])
            return f"{len(rig.proxy.requests)} requests, one of them without tools for the summary"

    def interruption(self) -> str:
        """Ctrl+C while the response streams."""
        with scripted(None) as rig:
            process = rig.codex.start(MODEL, "Say hello.")
            assert rig.worker is not None
            servers.eventually(lambda: rig.worker is not None and not rig.worker.arrived.empty())
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            servers.eventually(lambda: rig.worker is not None and not rig.worker.cancelled.empty())
            seconds = time.monotonic() - began
            run = finish(process)
            assert run.usage is None, run.output
            assert rig.worker.cancelled.get_nowait() == rig.worker.requests[0].id
            return f"the backend's call was cancelled after {seconds:.1f} s"

    def overflow(self) -> str:
        """A prompt that is longer than the context of the bundled worker's model."""
        model = ("--model", f"smollm2={smollm2_path()}", "--n-ctx", "2048")
        with servers.worker(*model) as (_, address), rig_for(address) as rig:
            run = rig.codex.run("smollm2", "Say hello.")
            rig.check_requests(400)
            assert run.usage is None, run.output
            message = failure(run)
            assert "ran out of room" in message, run.output
            return f"one request, no reconnection; Codex prints {message!r}"

    def real_model(self) -> str:
        """Two turns of a session with the bundled worker; the second reuses the prompt of the first."""
        model = ("--model", f"gemma3={gemma3_path()}", "--n-ctx", str(CONTEXT_TOKENS))
        # This model seldom ends an answer to such a prompt.
        limit = ("--max-output-tokens", "48")
        with servers.worker(*model) as (_, address), rig_for(address, *limit) as rig:
            turns = [rig.codex.run("gemma3", "Say hello."), rig.codex.run("gemma3", "Say it again.", resume=True)]
            rig.check_requests(200, 200)
            assert rig.proxy.failed == []
            for run in turns:
                assert run.usage or "max_output_tokens" in failure(run), run.output
            counts = re.findall(r"prompt_tokens=(\d+) cached_tokens=(\d+)", rig.sidecar.output)
            (first, _), (second, cached) = [(int(prompt), int(cached)) for prompt, cached in counts]
            assert cached > 0.9 * first, counts
            return f"prompts of {first} and {second} tokens, {cached} of the second from the cache"


def failure(run: Run) -> str:
    """Returns the message of the turn that failed."""
    failed = [event["error"]["message"] for event in run.events if event["type"] == "turn.failed"]
    assert failed, run.output
    return str(failed[-1])


NAMES = (
    "text",
    "tool",
    "custom_tool",
    "tools_in_the_input",
    "schema",
    "namespace",
    "compaction",
    "interruption",
    "overflow",
    "real_model",
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--record", is_flag=True, help=f"Write the requests to tests/wire/recorded/{RECORDED.name}.")
def main(names: tuple[str, ...], record: bool) -> None:
    """Runs the steps with these NAMES, or all. Fails at the first wrong result."""
    if record and names:
        raise click.UsageError("--record needs all steps")
    try:
        ensure_codex()
    except Fail as error:
        raise click.ClickException(str(error)) from error
    steps = Steps()
    for name in names or NAMES:
        click.echo(f"{name}: {getattr(steps, name)()}")
    if record:
        trimmer = Trimmer(steps.homes)
        requests = [request.as_json(trimmer) for request in steps.recorded]
        RECORDED.write_text(to_text(f"Codex CLI {VERSION.partition('-')[0]}", requests))
        click.echo(f"{len(requests)} requests written to {RECORDED}")
    sys.exit(0)


if __name__ == "__main__":
    main()
