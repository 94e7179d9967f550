"""The tokenizers of all models, with threads that run at once."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.core.model_files import LOCAL_TOKENIZER, TokenizerFolder
from openai_server.core.tasks import TokenizeOptions
from openai_server.tokenizing.tokenizers import MAX_LIMIT, MIN_LIMIT, BadTokenizer, Tokenizer, Tokenizers
from protos import tensors
from tests.openai_server.tokenizing.vocabularies import CONTROL, THINK, USER, byte_level, folder_with


class Threads:
    def __init__(self) -> None:
        self.callers: list[str] = []

    async def run(self, caller: str, work: Callable[..., Any], *args: Any) -> Any:
        self.callers.append(caller)
        return work(*args)


def folder(vocabulary: Path | None) -> TokenizerFolder:
    return TokenizerFolder("folder", {}, {}, vocabulary)


def options(**values: Any) -> TokenizeOptions:
    return TokenizeOptions(**{"add_special": False, "names": {"text": "content"}, **values})


def loaded(threads: Threads, path: Path) -> Tokenizer:
    tokenizers = Tokenizers({"m": folder(folder_with(byte_level(), path))}, threads)
    assert tokenizers.get({LOCAL_TOKENIZER: "other"}) is None
    assert tokenizers.get({}) is None
    tokenizer = tokenizers.get({LOCAL_TOKENIZER: "m"})
    assert tokenizer is not None
    return tokenizer


async def test_texts_are_converted_in_the_threads_of_their_caller(tmp_path: Path) -> None:
    tokenizer = loaded(threads := Threads(), tmp_path)
    ids, pieces = await tokenizer.tokens(f"{USER}é", (), options(), context_length=None, caller="anna")
    assert b"".join(pieces) == f"{USER}é".encode()
    assert await tokenizer.length(f"{USER}é", (), options(), caller="ben") == (len(ids), USER.encode())
    assert await tokenizer.length("", (), options(), caller="ben") == (0, b"")
    assert await tokenizer.text(ids, caller="carl") == f"{USER}é"
    assert threads.callers == ["anna", "ben", "ben", "carl"]


async def test_the_options_apply(tmp_path: Path) -> None:
    tokenizer = loaded(Threads(), tmp_path)
    n_ids = {}
    for name, wanted, plain in (
        ("default", options(), ()),
        ("special", options(add_special=True), ()),
        ("parsed", options(parse_special=True), ()),
        ("as text", options(parse_special=False), ()),
        ("plain", options(), [(0, 2)]),
    ):
        n_ids[name], _ = await tokenizer.length(USER, plain, wanted, caller="x")
    assert (n_ids["default"], n_ids["special"], n_ids["parsed"]) == (1, 3, 1)
    assert n_ids["as text"] == n_ids["plain"] > 1


@pytest.mark.parametrize(
    ("context_length", "limit"),
    [(1, MIN_LIMIT), (MIN_LIMIT + 5, MIN_LIMIT + 5), (None, MAX_LIMIT), (10 * MAX_LIMIT, MAX_LIMIT)],
)
async def test_as_many_tokens_as_the_context_has_are_returned(
    context_length: int | None, limit: int, tmp_path: Path
) -> None:
    tokenizer = loaded(Threads(), tmp_path)
    ids, pieces = await tokenizer.tokens(USER * limit, (), options(), context_length=context_length, caller="x")
    assert len(ids) == len(pieces) == limit
    with pytest.raises(InvalidRequest, match=f"'content' has {limit + 1} tokens; at most {limit} are") as caught:
        await tokenizer.tokens(USER * (limit + 1), (), options(), context_length=context_length, caller="x")
    assert (caught.value.param, caught.value.code) == ("content", "context_length_exceeded")
    assert (await tokenizer.length(USER * (limit + 1), (), options(), caller="x"))[0] == limit + 1


async def test_packed_ids_are_converted(tmp_path: Path) -> None:
    """A helper process packs the ids of a large body."""
    tokenizer = loaded(Threads(), tmp_path)
    ids, _ = await tokenizer.tokens("The fox", (), options(), context_length=None, caller="x")
    assert await tokenizer.text(tensors.packed("INT32", list(ids)), caller="x") == "The fox"


async def test_an_error_names_the_clients_field(tmp_path: Path) -> None:
    tokenizer = loaded(Threads(), tmp_path)
    with pytest.raises(InvalidRequest, match="There is no token 999999;") as caught:
        await tokenizer.text([999999], caller="x")
    assert caught.value.param == "tokens"


def test_a_tokenizer_has_parameters(tmp_path: Path) -> None:
    path = folder_with(byte_level(), tmp_path)
    tokenizers = Tokenizers({"m": folder(path), "n": folder(None)}, Threads())
    assert tokenizers.parameters("n") == tokenizers.parameters("other") == {}
    parameters = tokenizers.parameters("m")
    assert parameters.pop(LOCAL_TOKENIZER) == "m"
    assert {name: json.loads(value) for name, value in parameters.items()} == {
        "control_tokens": CONTROL,
        "user_defined_tokens": [THINK],
    }


def test_a_vocabulary_that_cannot_be_loaded_is_an_error_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(BadTokenizer, match=r"^'.*/tokenizer.json' can't be loaded: "):
        Tokenizers({"m": folder(path)}, Threads())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "openai_server.tokenizing.local", raising=False)
    with pytest.raises(BadTokenizer, match=r"^'.*/tokenizer.json' needs the package `tokenizers`, which the extra"):
        Tokenizers({"m": folder(path)}, Threads())
    Tokenizers({"m": folder(None)}, Threads())
