import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from openai_server.api import responses
from openai_server.api.responses import ChatChunks, Chunks, CompletionChunks, Header, Telling
from openai_server.backends.dialects.anyserve.decode import Answer, Choice
from openai_server.core.errors import InternalError
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.usage import Usage
from openai_server.http import sse
from tests.shapes import exact

HEADER = Header('id-"1"', 1700000000, "org/mödel")
ANSWERS = [Answer([Choice(0, "a", "stop"), Choice(1, "b", "length")], Usage(3, 4, 1))] * 2


def events(data: bytes) -> list[Any]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    return [block if block == "data: [DONE]" else json.loads(block.removeprefix("data: ")) for block in blocks]


def test_whole_answers_are_valid() -> None:
    completion = exact(Completion, responses.completion(HEADER, ANSWERS, Telling()))
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    chat = exact(ChatCompletion, responses.chat_completion(HEADER, ANSWERS[:1], Telling()))
    assert [choice.message.content for choice in chat.choices] == ["a", "b"]
    assert (completion.id, chat.model) == (HEADER.id, HEADER.model)
    assert completion.usage is not None
    assert completion.usage.total_tokens == 14


def test_a_model_is_valid_and_tells_what_is_known() -> None:
    parameters = {
        "context_length": "2048",
        "vocab_size": "9",
        "embedding_length": "4",
        "size": "many",
        "bos_token": "1",
    }
    told = responses.model("m", 1, ["generate", "embed", "tokenize"], parameters)
    assert Model.model_validate(told, strict=True).id == "m"
    assert told["max_model_len"] == 2048
    assert told["capabilities"] == ["completion", "embedding", "tokenize"]
    assert told["meta"] == {"n_vocab": 9, "n_embd": 4}
    assert set(told) - set(responses.model("m", 1, [], {"context_length": "²"})) == {"max_model_len", "meta"}


@pytest.mark.parametrize("chunks", [CompletionChunks, ChatChunks])
@pytest.mark.parametrize("include_usage", [False, True])
def test_every_chunk_has_the_same_header(chunks: type[Chunks], include_usage: bool) -> None:
    writer = chunks(HEADER, Telling(include_usage=include_usage))
    data = writer.begin(2) + writer.delta(Choice(1, "x", "stop")) + writer.end(Usage(1, 2, None))
    *said, done = events(data)
    assert done == "data: [DONE]"
    for chunk in said:
        assert (chunk["id"], chunk["created"], chunk["model"]) == (HEADER.id, HEADER.created, HEADER.model)
        assert chunk["object"] == chunks.kind
        assert ("usage" in chunk) == include_usage
    usages = [chunk["usage"] for chunk in said if chunk.get("usage")]
    assert usages == [{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}] * include_usage


@given(text=st.text(), index=st.integers(0, 2047), reason=st.sampled_from([None, "stop", "length"]))
def test_any_text_survives(text: str, index: int, reason: str | None) -> None:
    [chunk] = events(CompletionChunks(HEADER, Telling(include_usage=False)).delta(Choice(index, text, reason)))
    assert chunk["choices"] == [{"index": index, "text": text, "logprobs": None, "finish_reason": reason}]
    for chunk in events(ChatChunks(HEADER, Telling(include_usage=False)).delta(Choice(index, text, reason))):
        exact(ChatCompletionChunk, chunk)


def test_content_and_reason_are_chunks_of_their_own() -> None:
    said = events(ChatChunks(HEADER, Telling(include_usage=False)).delta(Choice(0, "x", "stop")))
    assert [(chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]) for chunk in said] == [
        ({"content": "x"}, None),
        ({}, "stop"),
    ]


def test_unknown_usage_is_null() -> None:
    [chunk, _] = events(ChatChunks(HEADER, Telling(include_usage=True)).end(None))
    assert (chunk["choices"], chunk["usage"]) == ([], None)


def test_a_failure_ends_the_stream() -> None:
    [failed, done] = events(sse.failure(InternalError()))
    assert failed["error"]["code"] == "internal_error"
    assert done == "data: [DONE]"


def test_a_ping_is_a_comment() -> None:
    assert sse.PING.startswith(b":")
    assert sse.PING.endswith(b"\n\n")


# ---- Log probabilities

TOKENS = [TokenLogprob(b"a", -0.5, [(b"a", -0.5)]), TokenLogprob(b"b", -1.5, [(b"a", -0.25)])]


def test_whole_answers_with_log_probabilities_are_valid() -> None:
    answers = [Answer([Choice(0, "ab", "stop", TOKENS), Choice(1, "", "length")], Usage(1, 2, None))]
    completion = exact(Completion, responses.completion(HEADER, answers, Telling(logprobs=True)))
    assert [choice.logprobs and choice.logprobs.tokens for choice in completion.choices] == [["a", "b"], []]
    chat = exact(ChatCompletion, responses.chat_completion(HEADER, answers, Telling(logprobs=True)))
    contents = [choice.logprobs and choice.logprobs.content for choice in chat.choices]
    assert [[token.token for token in content or []] for content in contents] == [["a", "b"], []]


def test_streamed_log_probabilities_come_with_their_text() -> None:
    writer = ChatChunks(HEADER, Telling(logprobs=True))
    data = (
        writer.begin(1)
        + writer.delta(Choice(0, "a", None, TOKENS[:1]))
        + writer.delta(Choice(0, "", "stop", TOKENS[1:]))
    )
    chunks = [exact(ChatCompletionChunk, event) for event in events(data)]
    told = [(c.choices[0].delta.content, c.choices[0].logprobs, c.choices[0].finish_reason) for c in chunks]
    assert [(text, reason) for text, _, reason in told] == [("", None), ("a", None), ("", None), (None, "stop")]
    assert [token.token for _, logprobs, _ in told if logprobs for token in logprobs.content or []] == ["a", "b"]


def test_streamed_offsets_go_on_for_each_choice() -> None:
    writer = CompletionChunks(HEADER, Telling(logprobs=True))
    data = writer.begin(2)
    for index, text, tokens in ((0, "a", TOKENS[:1]), (1, "b", TOKENS[1:]), (0, "b", TOKENS[1:])):
        data += writer.delta(Choice(index, text, None, tokens))
    assert [event["choices"][0]["logprobs"]["text_offset"] for event in events(data)] == [[0], [0], [1]]
