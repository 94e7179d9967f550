"""llama-server's `timings` and `prompt_progress`, in whole answers and in chunks."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import openai.types as sdk
import openai.types.chat as sdk_chat
import pytest

from openai_server.api.answers import AnswerIdentity, AnswerOptions
from openai_server.api.chat.answer import ChatCompletion, ChatCompletionChunk
from openai_server.api.chat.whole import chat_completion
from openai_server.api.chat.writer import ChatWriter
from openai_server.api.chunk_writer import ChunkWriter
from openai_server.api.completions.answer import Completion, CompletionChunk
from openai_server.api.completions.whole import completion
from openai_server.api.completions.writer import CompletionWriter
from openai_server.api.reporting_stream import ReportingStream
from openai_server.api.timings import timings_of
from openai_server.core.answer import Answer, Choice
from openai_server.core.rows import Row
from openai_server.core.timings import Progress, Timings
from openai_server.core.usage import PromptUsage, Usage
from openai_server.http.json_response import encode
from tests.shapes import exact

IDENTITY = AnswerIdentity("id", 1700000000, "m")
MEASURED = Timings(Usage(12, 11, 4), 1, 20.0, 50.0)
WRITTEN = {
    "prompt_n": 8,
    "cache_n": 4,
    "prompt_ms": 20.0,
    "prompt_per_token_ms": 2.5,
    "prompt_per_second": 400.0,
    "predicted_n": 11,
    "predicted_ms": 50.0,
    "predicted_per_token_ms": 5.0,
    "predicted_per_second": 200.0,
}


SHAPES: dict[type, Any] = {
    Completion: sdk.Completion,
    ChatCompletion: sdk_chat.ChatCompletion,
    ChatCompletionChunk: sdk_chat.ChatCompletionChunk,
}


def check(value: Any, struct: type[msgspec.Struct]) -> None:
    """Checks a body or chunk against its documented type and, but for the two fields, against the openai package."""
    msgspec.convert(value, struct, strict=True)
    if struct in SHAPES:  # the package has no type for a chunk of a completion
        exact(SHAPES[struct], {key: item for key, item in value.items() if key not in ("timings", "prompt_progress")})


def written(measured: Timings) -> dict[str, Any]:
    return dict(json.loads(encode(timings_of(measured))))


def test_speeds_are_those_of_steps() -> None:
    """As in llama-server, a choice's first token has no step of its own: the prompt's last one gives it."""
    assert written(MEASURED) == WRITTEN
    assert written(MEASURED._replace(n_begun=6))["predicted_per_second"] == 100.0
    assert written(MEASURED._replace(prompt_ms=20.000123456))["prompt_ms"] == 20.0


def test_unknown_values_are_absent() -> None:
    unknown_cache = written(Timings(Usage(12, 11, None), 1, 20.0, 50.0))
    assert "cache_n" not in unknown_cache
    assert unknown_cache["prompt_n"] == 12
    single = written(Timings(Usage(12, 1, 4), 1, 20.0, 0.0))
    assert (single["predicted_n"], single["predicted_ms"]) == (1, 0.0)
    assert not {"predicted_per_token_ms", "predicted_per_second"} & single.keys()


ANSWER = Answer([Choice(0, "a", "stop")], MEASURED.usage, MEASURED)


@pytest.mark.parametrize(("build", "struct"), [(completion, Completion), (chat_completion, ChatCompletion)])
def test_a_whole_answer_has_its_times(build: Any, struct: Any) -> None:
    def payload(*answers: Answer) -> Any:
        body = json.loads(encode(build(IDENTITY, answers, AnswerOptions()).content))
        check(body, struct)
        return body

    assert payload(ANSWER)["timings"] == WRITTEN
    assert "timings" not in payload(replace(ANSWER, timings=None))


class Reports:
    """Reports what a test sets."""

    def __init__(self) -> None:
        self.timings: Timings | None = None
        self.waiting: list[Progress] = []

    def prompt_usage(self) -> PromptUsage | None:
        return PromptUsage(12, 4)

    def take_progress(self) -> list[Progress]:
        waiting, self.waiting = self.waiting, []
        return waiting


def events(data: bytes) -> list[Any]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks if block != "data: [DONE]"]


writers = pytest.mark.parametrize(
    ("writer", "struct"), [(CompletionWriter, CompletionChunk), (ChatWriter, ChatCompletionChunk)]
)


def new_stream(writer: type[ChunkWriter], *, include_usage: bool = False) -> tuple[ReportingStream, Reports]:
    stream, source = ReportingStream(writer(IDENTITY, AnswerOptions(include_usage=include_usage)), 1), Reports()
    stream.source = source
    return stream, source


@writers
@pytest.mark.parametrize("include_usage", [False, True])
def test_each_chunk_with_tokens_has_the_times_so_far(
    writer: type[ChunkWriter], struct: Any, include_usage: bool
) -> None:
    stream, source = new_stream(writer, include_usage=include_usage)
    times = [Timings(Usage(12, n, 4), 1, 20.0, 5.0 * n) for n in (1, 2, 3)]
    rows: list[Row] = [(0, b"a", None, ()), (0, b"b", None, ()), (0, b"", "stop", ())]
    chunks = []
    for measured, row in zip(times, rows, strict=True):
        source.timings = measured
        chunks += events(stream.take([row]))
    if writer is ChatWriter:
        assert "timings" not in chunks.pop(0)  # the role
    assert [chunk["timings"]["predicted_n"] for chunk in chunks] == [1, 2, 3]
    last = events(stream.end(Usage(12, 3, 4)))
    assert [chunk["timings"]["predicted_n"] for chunk in last] == [3] * include_usage
    for chunk in [*chunks, *last]:
        assert ("usage" in chunk) == include_usage
        check(chunk, struct)


@writers
@pytest.mark.parametrize("include_usage", [False, True])
def test_progress_comes_before_the_answer(writer: type[ChunkWriter], struct: Any, include_usage: bool) -> None:
    stream, source = new_stream(writer, include_usage=include_usage)
    source.waiting = [Progress(12, 4, 4, 0.0), Progress(12, 4, 8, 2.75)]
    chunks = events(stream.take([]))
    assert [chunk["prompt_progress"] for chunk in chunks] == [
        {"total": 12, "cache": 4, "processed": 4, "time_ms": 0},
        {"total": 12, "cache": 4, "processed": 8, "time_ms": 2},
    ]
    assert not stream.has_begun
    source.waiting = [Progress(12, None, 12, 4.0)]
    chunks += events(stream.take([(0, b"a", None, ())]))
    assert chunks[2]["prompt_progress"] == {"total": 12, "processed": 12, "time_ms": 4}
    for chunk in chunks[:3]:
        check(chunk, struct)
        (choice,) = chunk["choices"]
        assert choice.get("delta") == ({"role": "assistant", "content": None} if writer is ChatWriter else None)
    assert not any("prompt_progress" in chunk or "timings" in chunk for chunk in chunks[3:])
    assert len(chunks) == (5 if writer is ChatWriter else 4)
    assert stream.has_begun


def test_an_empty_answer_has_its_times_at_the_end() -> None:
    stream, source = new_stream(ChatWriter, include_usage=True)
    source.timings = MEASURED
    role, usage = events(stream.end(MEASURED.usage))
    assert "timings" not in role
    assert usage["timings"] == WRITTEN
