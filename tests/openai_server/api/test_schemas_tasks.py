import json
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
from openai.types import EmbeddingCreateParams

from openai_server.api import schemas_tasks
from openai_server.api.schemas.bounds import MAX_INPUTS
from openai_server.api.schemas_tasks import (
    ContentToTokenize,
    DetokenizeRequest,
    EmbeddingRequest,
    MessagesToTokenize,
    PromptToTokenize,
    RerankRequest,
    parse_detokenize,
    parse_embedding,
    parse_rerank,
    parse_tokenize,
)
from openai_server.core.errors import InvalidRequest, UnsupportedParameter
from protos import contract

Parse = Callable[[bytes], Any]


def parsed(parse: Parse, **body: object) -> Any:
    return parse(json.dumps(body).encode())


def rejection(parse: Parse, param: str | None, **body: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parsed(parse, **body)
    assert caught.value.param == param
    return caught.value


# ---- Every field has a place


def test_every_field_of_openais_embeddings_is_known() -> None:
    fields = schemas_tasks.EMBEDDING_FIELDS
    known = fields.mapped | fields.no_effect | set(fields.neutral)
    assert set(get_type_hints(EmbeddingCreateParams)) <= known


def test_every_input_of_the_embed_task_has_a_field() -> None:
    prompts = {contract.PROMPT.name, contract.PROMPT_TOKEN_IDS.name}
    inputs = {spec.name for spec in contract.TASKS[contract.TASK_EMBED].inputs}
    assert inputs - prompts <= schemas_tasks.EMBEDDING_FIELDS.mapped


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (parse_embedding, {"input": "x"}),
        (parse_rerank, {"query": "x", "documents": ["y"]}),
        (parse_tokenize, {"content": "x"}),
        (parse_tokenize, {"prompt": "x"}),
        (parse_tokenize, {"messages": [{"role": "user", "content": "x"}]}),
        (parse_detokenize, {"tokens": [1]}),
    ],
)
def test_an_unknown_field_is_rejected_and_null_is_unset(parse: Parse, body: dict[str, Any]) -> None:
    assert "Unrecognized" in rejection(parse, "foo", **body, foo=1).message
    assert parsed(parse, **body, model=None) == parsed(parse, **body)
    assert parsed(parse, **body, model="m").model == "m"
    rejection(parse, "model", **body, model=3)
    for field in body:
        rejection(parse, field, **{**body, field: {}})


# ---- Embeddings


@pytest.mark.parametrize(
    ("value", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1, 2], [3]], [[1, 2], [3]])],
)
def test_an_input_may_be_texts_or_token_ids(value: object, prompts: list[Any]) -> None:
    assert parsed(parse_embedding, input=value).prompts == prompts


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("", "input"),
        ([], "input"),
        ([""], "input[0]"),
        ([[]], "input[0]"),
        (["a", 1], "input"),
        ([[1], 2], "input"),
        ([-1], "input[0]"),
        ([[1, 2**31]], "input[0][1]"),
        ([True], "input[0]"),
        ([1.5], "input[0]"),
        (None, "input"),
        (["x"] * (MAX_INPUTS + 1), "input"),
        ([[1]] * (MAX_INPUTS + 1), "input"),
    ],
)
def test_an_invalid_input_is_rejected(value: object, param: str) -> None:
    rejection(parse_embedding, param, input=value)


def test_the_limit_of_inputs_does_not_apply_to_token_lists() -> None:
    assert len(parsed(parse_embedding, input=["x"] * MAX_INPUTS).prompts) == MAX_INPUTS
    assert len(parsed(parse_embedding, input=[1] * (MAX_INPUTS + 1)).prompts) == 1


def test_options_of_embeddings_are_parsed() -> None:
    value = {"dimensions": 5, "encoding_format": "base64", "normalize": False, "pooling": "cls"}
    expected = EmbeddingRequest(input="x", dimensions=5, encoding_format="base64", normalize=False, pooling="cls")
    assert parsed(parse_embedding, input="x", user="u", **value) == expected
    for field, bad in (
        ("dimensions", 0),
        ("dimensions", 2**31),
        ("dimensions", 1.5),
        ("encoding_format", "hex"),
        ("normalize", 1),
        ("pooling", "max"),
    ):
        rejection(parse_embedding, field, input="x", **{field: bad})
    rejection(parse_embedding, "input")


# ---- Rerank


def test_documents_may_be_texts_or_objects() -> None:
    request = parsed(parse_rerank, query="q", documents=["a", {"text": "b"}, ""], top_n=2, return_documents=True)
    assert isinstance(request, RerankRequest)
    assert request.texts == ["a", "b", ""]
    assert (request.top_n, request.return_documents) == (2, True)


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("query", {"documents": ["a"]}),
        ("query", {"query": "", "documents": ["a"]}),
        ("documents", {"query": "q"}),
        ("documents", {"query": "q", "documents": []}),
        ("documents", {"query": "q", "documents": "a"}),
        ("documents[0]", {"query": "q", "documents": [1]}),
        ("documents[1].text", {"query": "q", "documents": ["a", {}]}),
        ("documents[0].title", {"query": "q", "documents": [{"text": "a", "title": "t"}]}),
        ("documents", {"query": "q", "documents": ["a"] * (MAX_INPUTS + 1)}),
        ("top_n", {"query": "q", "documents": ["a"], "top_n": -1}),
        ("return_documents", {"query": "q", "documents": ["a"], "return_documents": "yes"}),
    ],
)
def test_an_invalid_rerank_request_is_rejected(param: str, body: dict[str, Any]) -> None:
    rejection(parse_rerank, param, **body)


def test_fields_of_other_rerank_apis_are_accepted_only_with_their_defaults() -> None:
    parsed(parse_rerank, query="q", documents=["a"], rank_fields=["text"], max_tokens_per_doc=None, user="u")
    for field, value in (("rank_fields", ["title"]), ("max_tokens_per_doc", 100), ("truncate_prompt_tokens", 1)):
        assert isinstance(
            rejection(parse_rerank, field, query="q", documents=["a"], **{field: value}), UnsupportedParameter
        )


# ---- Tokens


def test_the_name_of_the_text_field_sets_the_form() -> None:
    content = parsed(parse_tokenize, content="x", add_special=True, parse_special=False, with_pieces=True)
    assert content == ContentToTokenize(content="x", add_special=True, parse_special=False, with_pieces=True)
    assert parsed(parse_tokenize, content="x", add_special=None) == ContentToTokenize(content="x")
    assert parsed(parse_tokenize, content=None, prompt="x") == PromptToTokenize(prompt="x")
    prompt = parsed(parse_tokenize, prompt="x", add_special_tokens=False, return_token_strs=True)
    assert prompt == PromptToTokenize(prompt="x", add_special_tokens=False, return_token_strs=True)
    messages = [{"role": "user", "content": "x"}]
    chat = parsed(parse_tokenize, messages=messages, add_generation_prompt=True, tools=[])
    assert isinstance(chat, MessagesToTokenize)
    assert not chat.add_special_tokens
    assert len(chat.turn().messages) == 1


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("prompt", {}),
        ("prompt", {"content": "x", "prompt": "x"}),
        ("messages", {"prompt": "x", "messages": []}),
        ("content", {"content": ["x", 1]}),
        ("prompt", {"content": None}),
        ("add_special_tokens", {"content": "x", "add_special_tokens": True}),
        ("add_special", {"prompt": "x", "add_special": True}),
        ("with_pieces", {"prompt": "x", "with_pieces": True}),
        ("parse_special", {"content": "x", "parse_special": 1}),
        ("messages", {"messages": []}),
        ("messages[0].role", {"messages": [{"role": "robot", "content": "x"}]}),
        ("messages[0].foo", {"messages": [{"role": "user", "content": "x", "foo": 1}]}),
        ("add_generation_prompt", {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False}),
    ],
)
def test_an_invalid_tokenize_request_is_rejected(param: str, body: dict[str, Any]) -> None:
    rejection(parse_tokenize, param, **body)


def test_detokenize_accepts_token_ids() -> None:
    assert parsed(parse_detokenize, tokens=[1, 2]) == DetokenizeRequest(tokens=[1, 2])
    assert parsed(parse_detokenize, tokens=[]).tokens == []
    for tokens, param in (([-1], "tokens[0]"), (["a"], "tokens[0]"), ("a", "tokens"), (None, "tokens")):
        rejection(parse_detokenize, param, tokens=tokens)
