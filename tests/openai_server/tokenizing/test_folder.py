"""Folders in Hugging Face's form."""

import json
from pathlib import Path
from typing import Any

import pytest

from openai_server.tokenizing.folder import BadFolder, read

UNKNOWN_LENGTH = 1000000000000000019884624838656


def folder(path: Path, **files: Any) -> str:
    """Writes files, named by their key with `_` for the last `.`: texts as they are, other values as JSON."""
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (path / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return str(path)


def test_special_tokens_are_texts_or_objects(tmp_path: Path) -> None:
    config = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False},
        "pad_token": None,
        "unk_token": "<unk>",
        "add_bos_token": True,
        "model_max_length": 4096,
    }
    special = {"bos_token": "other", "pad_token": {"content": "<pad>"}}
    found = read(folder(tmp_path, tokenizer_config_json=config, special_tokens_map_json=special))
    assert found.parameters == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "add_bos_token": "true",
        "context_length": "4096",
    }
    assert (found.path, found.vocabulary) == (str(tmp_path), None)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (2048, "2048"),
        (8192.0, "8192"),
        (2**31 - 1, "2147483647"),
        (UNKNOWN_LENGTH, None),
        (1e30, None),
        (0, None),
        (-1, None),
        (True, None),
        ("2048", None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_the_context_length_is_a_sane_number(length: object, expected: str | None, tmp_path: Path) -> None:
    found = read(folder(tmp_path, tokenizer_config_json={"model_max_length": length}))
    assert found.parameters.get("context_length") == expected


NAMED = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "U"}, {"name": "rag", "template": "R"}]
BOTH = {"chat_template": "D", "chat_template_tool_use": "U"}


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        ({"tokenizer_config_json": {"chat_template": "T"}}, "tokenizer_config.json", {"chat_template": "T"}),
        ({"tokenizer_config_json": {"chat_template": NAMED}}, "tokenizer_config.json", BOTH),
        ({"chat_template_json": {"chat_template": NAMED}}, "chat_template.json", BOTH),
        ({"chat_template_json": {"chat_template": {"default": "D", "tool_use": "U"}}}, "chat_template.json", BOTH),
        (
            {"tokenizer_config_json": {"chat_template": NAMED}, "chat_template_json": {"chat_template": "J"}},
            "chat_template.json",
            {"chat_template": "J"},
        ),
        (
            {"chat_template_jinja": "é", "chat_template_json": {"chat_template": "J"}},
            "chat_template.jinja",
            {"chat_template": "é"},
        ),
        ({"chat_template_jinja": "", "tokenizer_config_json": {"chat_template": None}}, "", {}),
        ({"tokenizer_json": "{}"}, "", {}),
    ],
)
def test_the_chat_template_is_in_one_of_three_files(
    files: dict[str, Any], name: str, expected: dict[str, str], tmp_path: Path
) -> None:
    found = read(folder(tmp_path, **files))
    assert found.parameters == expected
    assert found.template_files == dict.fromkeys(expected, str(tmp_path / name))


def test_the_vocabulary_is_found(tmp_path: Path) -> None:
    found = read(folder(tmp_path, tokenizer_json="{}"))
    assert found.vocabulary == tmp_path / "tokenizer.json"


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "has none of the files tokenizer_config.json, chat_template.jinja, chat_template.json, "),
        ({"tokenizer_config_json": "{"}, "/tokenizer_config.json' is not JSON: "),
        ({"tokenizer_config_json": "[" * 200_000}, "/tokenizer_config.json' is not JSON: "),
        ({"tokenizer_config_json": []}, "/tokenizer_config.json' is not a JSON object"),
        ({"special_tokens_map_json": "null"}, "/special_tokens_map.json' is not a JSON object"),
        ({"chat_template_json": '""'}, "/chat_template.json' is not a JSON object"),
        ({"tokenizer_config_json": {"bos_token": 1}}, "/tokenizer_config.json': 'bos_token' must be a string, or "),
        ({"tokenizer_config_json": {"eos_token": ["</s>"]}}, "'eos_token' must be a string, or "),
        ({"special_tokens_map_json": {"pad_token": {"content": 1}}}, "/special_tokens_map.json': 'pad_token' must be"),
        ({"tokenizer_config_json": {"add_bos_token": "yes"}}, "'add_bos_token' must be true or false"),
        ({"tokenizer_config_json": {"chat_template": 1}}, "'chat_template' must be a string or a list of named"),
        (
            {"chat_template_json": {"chat_template": [{"name": "default"}]}},
            "/chat_template.json': 'chat_template' must",
        ),
        ({"chat_template_json": {"chat_template": ["T"]}}, "'chat_template' must be a string or a list of named"),
    ],
)
def test_an_error_names_the_file_and_the_problem(files: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadFolder) as caught:
        read(folder(tmp_path, **files))
    assert str(tmp_path) in str(caught.value)
    assert problem in str(caught.value)


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(BadFolder, match=r"can't read '.*/chat_template.jinja': 'utf-8' codec"):
        read(str(tmp_path))
    for path in (tmp_path / "none", tmp_path / "chat_template.jinja"):
        with pytest.raises(BadFolder, match=r"' is not a folder$"):
            read(str(path))
