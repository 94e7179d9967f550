import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from openai_server.api.answer_stream import AnswerStream
from openai_server.api.answers import AnswerIdentity, AnswerOptions, WholeAnswer
from openai_server.api.chat.whole import chat_completion
from openai_server.api.chat.writer import ChatWriter
from openai_server.api.chunk_writer import ChunkWriter
from openai_server.api.completions.whole import completion
from openai_server.api.completions.writer import CompletionWriter
from openai_server.core.answer import Answer, Choice
from openai_server.core.errors import InternalError
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.rows import Row
from openai_server.core.usage import Usage
from openai_server.http import sse
from openai_server.http.json_response import encode
from openai_server.parsing.answer_format import parser_for
from openai_server.parsing.choice_reader import AnswerFormat
from tests.openai_server.parsing.answers import tool
from tests.shapes import exact

IDENTITY = AnswerIdentity('id-"1"', 1700000000, "org/mödel")
ANSWERS = [Answer([Choice(0, "a", "stop"), Choice(1, "b", "length")], Usage(3, 4, 1))] * 2


def payload_of(answer: WholeAnswer) -> Any:
    return json.loads(encode(answer.content))


def events(data: bytes) -> list[Any]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    return [block if block == "data: [DONE]" else json.loads(block.removeprefix("data: ")) for block in blocks]


def test_whole_answers_are_valid() -> None:
    texts = exact(Completion, payload_of(completion(IDENTITY, ANSWERS, AnswerOptions())))
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    chat = exact(ChatCompletion, payload_of(chat_completion(IDENTITY, ANSWERS[:1], AnswerOptions())))
    assert [choice.message.content for choice in chat.choices] == ["a", "b"]
    assert (texts.id, chat.model) == (IDENTITY.id, IDENTITY.model)
    assert texts.usage is not None
    assert texts.usage.total_tokens == 14


@pytest.mark.parametrize("writer", [CompletionWriter, ChatWriter])
@pytest.mark.parametrize("include_usage", [False, True])
def test_every_chunk_has_the_same_identity(writer: type[ChunkWriter], include_usage: bool) -> None:
    answer = AnswerStream(writer(IDENTITY, AnswerOptions(include_usage=include_usage)), 2)
    data = answer.take([(1, b"x", "stop", ())]) + answer.end(Usage(1, 2, None))
    assert answer.finish_reasons == ["stop"]
    *chunks, done = events(data)
    assert done == "data: [DONE]"
    for chunk in chunks:
        assert (chunk["id"], chunk["created"], chunk["model"]) == (IDENTITY.id, IDENTITY.created, IDENTITY.model)
        assert chunk["object"] == writer.kind
        assert ("usage" in chunk) == include_usage
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert usages == [{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}] * include_usage


def streamed(
    writer: type[ChunkWriter],
    *rows: Row,
    n_choices: int = 1,
    logprobs: bool = False,
    format: AnswerFormat | None = None,
) -> list[Any]:
    """Returns the chunks of an answer, except for those of its beginning and end."""
    answer = AnswerStream(writer(IDENTITY, AnswerOptions(logprobs, format=format)), n_choices, format)
    chunks = events(b"".join(answer.take([row]) for row in rows))
    return chunks[n_choices:] if writer is ChatWriter else chunks


@given(text=st.text(), index=st.integers(0, 2047), reason=st.sampled_from([None, "stop", "length"]))
def test_any_text_is_streamed_unchanged(text: str, index: int, reason: str | None) -> None:
    row = (index, text.encode(), reason, ())
    completed = streamed(CompletionWriter, row, n_choices=2048)
    assert [chunk["choices"] for chunk in completed] == [
        [{"index": index, "text": text, "logprobs": None, "finish_reason": reason}]
    ] * bool(text or reason)
    for chunk in streamed(ChatWriter, row, n_choices=2048):
        exact(ChatCompletionChunk, chunk)


def test_content_and_finish_reason_are_separate_chunks() -> None:
    chunks = streamed(ChatWriter, (0, b"x", "stop", ()))
    assert [(chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        ({"content": "x"}, None),
        ({}, "stop"),
    ]


def test_unknown_usage_is_null() -> None:
    [chunk, _] = events(ChatWriter(IDENTITY, AnswerOptions(include_usage=True)).end(None))
    assert (chunk["choices"], chunk["usage"]) == ([], None)


def test_a_failure_ends_the_stream() -> None:
    [failure, done] = events(sse.failure(InternalError()))
    assert failure["error"]["code"] == "internal_error"
    assert done == "data: [DONE]"


def test_a_ping_is_a_comment() -> None:
    assert sse.PING.startswith(b":")
    assert sse.PING.endswith(b"\n\n")


# ---- Log probabilities

TOKENS = [TokenLogprob(b"a", -0.5, [(b"a", -0.5)]), TokenLogprob(b"b", -1.5, [(b"a", -0.25)])]


def test_whole_answers_with_log_probabilities_are_valid() -> None:
    answers = [Answer([Choice(0, "ab", "stop", TOKENS), Choice(1, "", "length")], Usage(1, 2, None))]
    texts = exact(Completion, payload_of(completion(IDENTITY, answers, AnswerOptions(logprobs=True))))
    assert [choice.logprobs and choice.logprobs.tokens for choice in texts.choices] == [["a", "b"], []]
    chat = exact(ChatCompletion, payload_of(chat_completion(IDENTITY, answers, AnswerOptions(logprobs=True))))
    contents = [choice.logprobs and choice.logprobs.content for choice in chat.choices]
    assert [[token.token for token in content or []] for content in contents] == [["a", "b"], []]


def test_streamed_log_probabilities_are_sent_with_their_text() -> None:
    data = streamed(ChatWriter, (0, b"a", None, TOKENS[:1]), (0, b"", "stop", TOKENS[1:]), logprobs=True)
    chunks = [exact(ChatCompletionChunk, event) for event in data]
    parts = [(c.choices[0].delta.content, c.choices[0].logprobs, c.choices[0].finish_reason) for c in chunks]
    assert [(text, reason) for text, _, reason in parts] == [("a", None), ("", None), (None, "stop")]
    assert [token.token for _, logprobs, _ in parts if logprobs for token in logprobs.content or []] == ["a", "b"]


def test_streamed_offsets_continue_for_each_choice() -> None:
    rows: list[Row] = [(0, b"a", None, TOKENS[:1]), (1, b"b", None, TOKENS[1:]), (0, b"b", None, TOKENS[1:])]
    chunks = streamed(CompletionWriter, *rows, n_choices=2, logprobs=True)
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [0], [1]]


def test_every_chunk_has_log_probabilities_if_requested() -> None:
    [chunk] = streamed(CompletionWriter, (0, b"a", None, ()), logprobs=True)
    assert chunk["choices"][0]["logprobs"]["tokens"] == []


# ---- Parsed answers

FORMAT = AnswerFormat(partial(parser_for, "<think></think>", "", None), lambda: "call_new")
TOOLS = AnswerFormat(partial(parser_for, "<think></think><tool_call>", "", [tool("f", {"a": {}})]), lambda: "call_new")


def deltas(chunks: list[Any]) -> list[tuple[Any, list[str] | None, str | None]]:
    """Returns (delta, tokens of the log probabilities, finish reason) of each chunk."""
    for chunk in chunks:
        exact(ChatCompletionChunk, chunk)
    choices = [chunk["choices"][0] for chunk in chunks]
    return [
        (
            choice["delta"],
            choice["logprobs"] and [token["token"] for token in choice["logprobs"]["content"]],
            choice["finish_reason"],
        )
        for choice in choices
    ]


def test_log_probabilities_wait_for_the_next_delta() -> None:
    rows: list[Row] = [(0, b"<thi", None, TOKENS[:1]), (0, b"nk>a", None, TOKENS[1:]), (0, b"</think>b", "length", ())]
    assert deltas(streamed(ChatWriter, *rows, logprobs=True, format=FORMAT)) == [
        ({"reasoning_content": "a"}, ["a", "b"], None),
        ({"content": "b"}, None, None),
        ({}, None, "length"),
    ]


def test_log_probabilities_of_tokens_without_text_are_sent_before_the_end() -> None:
    rows: list[Row] = [(0, b"<think>a</think>", None, ()), (0, b"", "stop", TOKENS)]
    assert deltas(streamed(ChatWriter, *rows, logprobs=True, format=FORMAT)) == [
        ({"reasoning_content": "a"}, None, None),
        ({"content": ""}, ["a", "b"], None),
        ({}, None, "stop"),
    ]


CALL = b'<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def test_a_call_is_streamed() -> None:
    call = {"index": 0, "id": "call_new", "type": "function", "function": {"name": "f", "arguments": ""}}
    parts = deltas(streamed(ChatWriter, (0, CALL, "stop", ()), format=TOOLS))
    assert parts[0] == ({"tool_calls": [call]}, None, None)
    assert parts[-1] == ({}, None, "tool_calls")
    arguments = [delta["tool_calls"][0]["function"]["arguments"] for delta, *_ in parts[1:-1]]
    assert "".join(arguments) == '{"a": 1}'


def test_a_call_of_the_older_api_is_streamed() -> None:
    parts = deltas(streamed(ChatWriter, (0, CALL + CALL, "stop", ()), format=replace(TOOLS, legacy=True)))
    assert parts[0] == ({"function_call": {"name": "f", "arguments": ""}}, None, None)
    assert parts[-1] == ({}, None, "function_call")
    assert "".join(delta["function_call"]["arguments"] for delta, *_ in parts[1:-1]) == '{"a": 1}', (
        "the older API has only one call"
    )


def test_held_text_is_sent_at_the_end_for_a_backend_without_finish_reasons() -> None:
    answer = AnswerStream(ChatWriter(IDENTITY, AnswerOptions(format=FORMAT)), 2, FORMAT)
    assert answer.take([(1, b"<thi", None, ())]) == b""
    assert not answer.has_begun
    *chunks, done = events(answer.end(None))
    first_chunks, chunks = chunks[:2], chunks[2:]
    assert [chunk["choices"][0]["delta"]["role"] for chunk in first_chunks] == ["assistant"] * 2
    assert deltas(chunks) == [({"content": "<thi"}, None, None)]
    assert (answer.finish_reasons, done) == ([], "data: [DONE]")


def test_a_whole_answer_has_its_call() -> None:
    answers = [Answer([Choice(0, CALL.decode(), "stop")], None)]
    whole = chat_completion(IDENTITY, answers, AnswerOptions(format=TOOLS))
    assert (whole.n_choices, whole.finish_reasons, whole.usage) == (1, ["tool_calls"], None)
    [choice] = exact(ChatCompletion, payload_of(whole)).choices
    assert choice.message.content is None
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.id, call.function.name, call.function.arguments) == ("call_new", "f", '{"a": 1}')


def test_a_character_split_over_rows_is_sent_whole() -> None:
    rows: list[Row] = [(0, "é".encode()[:1], None, ()), (0, "é".encode()[1:], None, ()), (0, b"\xff", "stop", ())]
    chunks = streamed(CompletionWriter, *rows)
    assert [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        ("é", None),
        ("\ufffd", "stop"),
    ]


def test_a_failure_follows_the_beginning_that_no_event_has_carried_yet() -> None:
    answer = AnswerStream(ChatWriter(IDENTITY, AnswerOptions(format=FORMAT)), 1, FORMAT)
    assert answer.take([(0, b"<thi", None, ())]) == b""
    begin, failure, done = events(answer.failure(InternalError()))
    assert begin["choices"][0]["delta"]["role"] == "assistant"
    assert (failure["error"]["code"], done) == ("internal_error", "data: [DONE]")


def test_a_stream_begins_with_its_first_row_not_with_a_silence() -> None:
    began: list[Usage | None] = []

    class Writer(ChatWriter):
        def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
            began.append(prompt)
            return super().begin(n_choices, prompt)

    answer = AnswerStream(Writer(IDENTITY, AnswerOptions()), 1)
    assert (answer.take([]), began) == (b"", []), "the counts of the prompt are not known yet"
    answer.take([(0, b"x", None, ())])
    assert len(began) == 1
