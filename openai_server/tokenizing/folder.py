"""Reads a folder in Hugging Face's form: chat templates, special tokens and the context length of a model."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openai_server.core.model_files import TokenizerFolder
from protos.contract import INT32_MAX

CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
JINJA = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
VOCABULARY = "tokenizer.json"
FILES = (CONFIG, JINJA, TEMPLATE_JSON, SPECIAL_TOKENS, VOCABULARY)
"""Files that are read; a folder has at least one of them."""

_TOKENS = ("bos_token", "eos_token", "pad_token")
_NAMED_TEMPLATES = {"default": "chat_template", "tool_use": "chat_template_tool_use"}
"""Name of a template in the list of a model with several → parameter. Other templates, such as `rag`, aren't used."""


class BadFolder(Exception):
    """The folder or a file in it can't be used. The message names it, and is the end of a sentence."""


def read(path: str) -> TokenizerFolder:
    """Raises BadFolder."""
    folder = Path(path)
    if not folder.is_dir():
        raise BadFolder(f"{path!r} is not a folder")
    if not any((folder / name).is_file() for name in FILES):
        raise BadFolder(f"{path!r} has none of the files {', '.join(FILES)}")
    config, special = _json(folder / CONFIG), _json(folder / SPECIAL_TOKENS)
    parameters, template_files = _templates(folder, config)
    for name in _TOKENS:
        for file, values in ((CONFIG, config), (SPECIAL_TOKENS, special)):
            if name not in parameters and (token := _token(values.get(name), name, folder / file)):
                parameters[name] = token
    if (adds_bos := config.get("add_bos_token")) is not None:
        if not isinstance(adds_bos, bool):
            raise BadFolder(f"{str(folder / CONFIG)!r}: 'add_bos_token' must be true or false")
        parameters["add_bos_token"] = "true" if adds_bos else "false"
    if (length := _length(config.get("model_max_length"))) is not None:
        parameters["context_length"] = str(length)
    vocabulary = folder / VOCABULARY
    return TokenizerFolder(path, parameters, template_files, vocabulary if vocabulary.is_file() else None)


def _templates(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The chat templates by parameter, and the file of each, from the first file that has any."""
    sources: dict[str, Any] = {
        JINJA: _text(folder / JINJA),
        TEMPLATE_JSON: _json(folder / TEMPLATE_JSON).get("chat_template"),
        CONFIG: config.get("chat_template"),
    }
    for file, source in sources.items():
        path = folder / file
        if source:
            templates = {parameter: text for parameter, text in _by_parameter(source, path) if text}
            return templates, dict.fromkeys(templates, str(path))
    return {}, {}


def _by_parameter(source: Any, path: Path) -> Iterator[tuple[str, str]]:
    if isinstance(source, str):
        yield "chat_template", source
        return
    if isinstance(source, dict):
        source = [{"name": name, "template": template} for name, template in source.items()]
    for named in source if isinstance(source, list) else [None]:
        name, template = (named.get("name"), named.get("template")) if isinstance(named, dict) else (None, None)
        if not (isinstance(name, str) and isinstance(template, str)):
            raise BadFolder(f"{str(path)!r}: 'chat_template' must be a string or a list of named templates")
        if name in _NAMED_TEMPLATES:
            yield _NAMED_TEMPLATES[name], template


def _token(value: Any, name: str, path: Path) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise BadFolder(f"{str(path)!r}: {name!r} must be a string, or an object with its 'content'")
    return text


def _length(value: Any) -> int | None:
    """The context length in tokens; None for the huge number that Hugging Face writes if it is unknown."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 1 <= value <= INT32_MAX else None


def _json(path: Path) -> dict[str, Any]:
    """The object in the file; empty if there is no file."""
    text = _text(path)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFolder(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadFolder(f"{str(path)!r} is not a JSON object")
    return value


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadFolder(f"can't read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
