"""Items of tools that this server doesn't have, as calls of functions and their results. PURE.

A client that was connected to another server sends them back. The model reads what was called and what came of it. The
fields may have any type.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from openai_server.api.responses.input.items import (
    ApplyPatchCallInput,
    ApplyPatchCallOutputInput,
    CodeInterpreterCallInput,
    FileSearchCallInput,
    LocalShellCallInput,
    LocalShellCallOutputInput,
    McpCallInput,
    ProgramInput,
    ProgramOutputInput,
    ShellCallInput,
    ShellCallOutputInput,
    ShownInput,
)
from openai_server.api.schemas.bounds import MAX_DEPTH
from openai_server.core.errors import AboveLimit


class ShownCall(NamedTuple):
    id: str
    name: str
    arguments: str


class ShownOutput(NamedTuple):
    call_id: str
    text: str


def shown(item: ShownInput, field: str) -> Iterator[ShownCall | ShownOutput]:
    """Calls and results for the model to read. `field` is the item's path. Raises AboveLimit for a value that nests too
    deeply."""
    try:
        yield from _shown(item, field)
    except TypeError:  # the only reason that decoded JSON can't be written
        raise AboveLimit(field, f"has too many nested levels, at most {MAX_DEPTH}", kind="array") from None


def _shown(item: ShownInput, field: str) -> Iterator[ShownCall | ShownOutput]:
    match item:
        case McpCallInput(id=id, name=name, arguments=arguments, output=output, error=error):
            yield ShownCall(_id(id, field), _text(name) or "mcp", _text(arguments) or "{}")
            if output is not None or error is not None:
                yield ShownOutput(_id(id, field), _text(error if output is None else output))
        case FileSearchCallInput(id=id, queries=queries, results=results):
            if results:
                yield ShownCall(_id(id, field), "file_search", _text({"queries": queries}))
                yield ShownOutput(_id(id, field), _text(results))
        case CodeInterpreterCallInput(id=id, code=code, outputs=outputs):
            yield ShownCall(_id(id, field), "code_interpreter", _text({"code": code}))
            yield ShownOutput(_id(id, field), _logs(outputs))
        case LocalShellCallInput(call_id=id, action=action):
            yield ShownCall(_id(id, field), "local_shell", _object(action))
        case ShellCallInput(call_id=id, action=action):
            yield ShownCall(_id(id, field), "shell", _object(action))
        case ApplyPatchCallInput(call_id=id, operation=operation):
            yield ShownCall(_id(id, field), "apply_patch", _object(operation))
        case ProgramInput(call_id=id, code=code):
            yield ShownCall(_id(id, field), "program", _text({"code": code}))
        case LocalShellCallOutputInput(id=id, call_id=call_id, output=output):
            yield ShownOutput(_id(call_id or id, field), _text(output))
        case ShellCallOutputInput(call_id=id, output=output):
            yield ShownOutput(_id(id, field), _text(output))
        case ApplyPatchCallOutputInput(call_id=id, output=output, status=status):
            yield ShownOutput(_id(id, field), _text(output) or _text(status))
        case ProgramOutputInput(call_id=id, result=result):
            yield ShownOutput(_id(id, field), _text(result))


def _id(value: object, field: str) -> str:
    """The id of a call; the item's path stands for a missing one."""
    return value if isinstance(value, str) and value else field


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _object(value: object) -> str:
    return _text(value if isinstance(value, dict) else {"input": value})


def _logs(outputs: Any) -> str:
    if not isinstance(outputs, list):
        return ""
    logs = (output.get("logs") for output in outputs if isinstance(output, dict))
    return "\n".join(log for log in logs if isinstance(log, str))
