"""Input items in the form in which they are stored, listed and returned to clients. PURE.

An item in this form satisfies the `openai` package's types of items in a response's input and in a conversation, is
accepted as input again, and means the same to the model.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import get_args

import msgspec
import orjson

from openai_server.api.responses.input import stored_parts as parts
from openai_server.api.responses.input.items import ShownInput
from openai_server.api.responses.input.shown import ShownCall, shown
from openai_server.api.responses.input.stored_parts import Json, kept
from openai_server.api.responses.input.stored_shown import Caller, State, StoredShown
from openai_server.api.responses.input.stored_skipped import StoredSkipped
from openai_server.api.responses.input.tools import AnyTool, CallableTool, NamespaceTool
from openai_server.api.schemas.guides import ANY_OBJECT
from openai_server.store.records import Item

MAX_ID = 128
"""Characters of an item's id."""
_ID = re.compile(rf"(?!\.\.?$)[!-.0-~]{{1,{MAX_ID}}}")
"""Ids that can be a segment of a URL's path."""
_PREFIXES: Mapping[str, str] = {
    "additional_tools": "at",
    "apply_patch_call": "apc",
    "apply_patch_call_output": "apco",
    "code_interpreter_call": "ci",
    "compaction": "cmp",
    "computer_call": "cu",
    "computer_call_output": "cuo",
    "configuration_update": "cfg",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "file_search_call": "fs",
    "function_call": "fc",
    "function_call_output": "fco",
    "image_generation_call": "ig",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "message": "msg",
    "program": "prog",
    "program_output": "progo",
    "reasoning": "rs",
    "shell_call": "sh",
    "shell_call_output": "sho",
    "tool_search_call": "tsc",
    "tool_search_output": "tso",
    "web_search_call": "ws",
}
_NOT_STORED = "compaction_trigger"
"""A command to the server rather than a part of the conversation."""


def stored_items(items: str | Sequence[Json], key: str, taken: Collection[str]) -> list[Item]:
    """The items in their stored form, with unique ids that are not in `taken`. `key` makes new ids unique; they differ
    from those of a response's output with the same key.

    `items` are the decoded JSON values of an input that has been accepted, without references to stored items; they are
    not changed. An item of a tool that this server doesn't have, with values that the `openai` package's types don't
    allow, is stored as the calls and results that the model reads. It is left out if the model doesn't read it.
    """
    if isinstance(items, str):
        return stored_items([{"role": "user", "content": items}], key, taken)
    result = _Result(key, taken)
    for item in items:
        type = item.get("type") or "message"  # the only type that may be absent
        if make := _MAKERS.get(type):
            result.add(item, {"type": type, **make(item)})
        elif type != _NOT_STORED:
            _add_tool_item(result, item)
    return result.items


class _Result:
    def __init__(self, key: str, taken: Collection[str]) -> None:
        self.items: list[Item] = []
        self._key = key
        self._taken = taken
        self._ids: set[str] = set()

    def may_have(self, id: object) -> bool:
        """Whether an item may have this id."""
        if not isinstance(id, str) or _ID.fullmatch(id) is None:
            return False
        return id not in self._ids and id not in self._taken

    def add(self, item: Json, stored: Json) -> None:
        """Adds an item with the id of `item` if that is possible. Raises TypeError for a value that nests too
        deeply."""
        id: str = item["id"] if self.may_have(item.get("id")) else self.next_id(stored["type"])
        body = orjson.dumps({"type": stored.pop("type"), "id": id, **stored})
        self._ids.add(id)
        self.items.append(Item(id, body))

    def next_id(self, type: str) -> str:
        """A new id for the next item."""
        # The i distinguishes it from an id in the response's output, which ends with hexadecimal digits.
        id = f"{_PREFIXES[type]}_{self._key}i{len(self.items):02x}"
        while not self.may_have(id):
            id += "x"
        return id


# ---- Items that every request may have


def _message(item: Json) -> Json:
    role = item["role"]
    is_answer = role == "assistant"
    make = parts.output_part if is_answer else parts.input_part
    content = [make(part) for part in parts.parts_of(item["content"])]
    phase = {"phase": item["phase"]} if is_answer and item.get("phase") else {}
    return {"status": _status(item), "role": role, "content": content, **phase}


def _reasoning(item: Json) -> Json:
    stored = {"status": _status(item), "summary": _texts(item.get("summary"), "summary_text")}
    if item.get("content") is not None:
        stored["content"] = _texts(item["content"], "reasoning_text")
    return {**stored, **_present(item, "encrypted_content")}


def _texts(texts: Sequence[Json] | None, type: str) -> list[Json]:
    return [{"type": type, "text": parts.text_of(part)} for part in texts or ()]


def _function_call(item: Json) -> Json:
    call = {"status": _status(item), **_present(item, "call_id", "name", "arguments", "namespace")}
    return {**call, **kept(item, {"async": bool, "caller": Caller, "created_by": str})}


def _function_call_output(item: Json) -> Json:
    further = kept(item, {"name": str, "namespace": str, "caller": Caller, "created_by": str})
    return {"status": _status(item), "call_id": item["call_id"], "output": _output(item), **further}


def _custom_tool_call(item: Json) -> Json:
    call = {"status": _status(item), **_present(item, "call_id", "name", "input", "namespace")}
    return {**call, **kept(item, {"async": bool, "caller": Caller})}


def _custom_tool_call_output(item: Json) -> Json:
    further = kept(item, {"caller": Caller})
    return {"status": _status(item), "call_id": item["call_id"], "output": _output(item), **further}


def _compaction(item: Json) -> Json:
    return {"encrypted_content": item["encrypted_content"], **kept(item, {"created_by": str})}


def _additional_tools(item: Json) -> Json:
    return {"role": "developer", "tools": _tools(item["tools"])}


def _tool_search_output(item: Json) -> Json:
    execution = "server" if item.get("execution") == "server" else "client"
    further = kept(item, {"call_id": str, "created_by": str})
    return {"execution": execution, "status": _status(item), "tools": _tools(item.get("tools") or ()), **further}


def _configuration_update(item: Json) -> Json:
    stored: Json = {}
    if effort := (item.get("reasoning") or {}).get("effort"):
        stored["reasoning"] = {"effort": effort}
    if format := (item.get("text") or {}).get("format"):
        stored["text"] = {"format": _format(format)}
    return stored


_MAKERS: Mapping[str, Callable[[Json], Json]] = {
    "additional_tools": _additional_tools,
    "compaction": _compaction,
    "configuration_update": _configuration_update,
    "custom_tool_call": _custom_tool_call,
    "custom_tool_call_output": _custom_tool_call_output,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "message": _message,
    "reasoning": _reasoning,
    "tool_search_output": _tool_search_output,
}
"""Functions that return an item's stored form without `id` and `type`."""


def _status(item: Json) -> str:
    return str(kept(item, {"status": State}).get("status", "completed"))


def _present(item: Json, *names: str) -> Json:
    return {name: item[name] for name in names if item.get(name) is not None}


def _output(item: Json) -> str | list[Json]:
    output = item["output"]
    return output if isinstance(output, str) else [parts.input_part(part) for part in output]


def _format(format: Json) -> Json:
    """A format of a configuration update. The `openai` package's type has no format for any JSON object, so that is
    stored as the schema of any object."""
    if format["type"] == "text":
        return {"type": "text"}
    named = {"type": "json_schema", "name": format.get("name") or "object"}
    schema = format.get("schema") or ANY_OBJECT
    return {**named, "schema": schema, **_present(format, "description", "strict")}


def _tools(tools: Sequence[Json]) -> list[Json]:
    """The tools that the answer can call, which are the only ones with an effect."""
    stored = []
    for tool in msgspec.convert(tools, list[AnyTool]):
        if isinstance(tool, NamespaceTool):
            named = {"type": "namespace", "name": tool.name, "description": tool.description or ""}
            stored.append({**named, "tools": [_tool(inner) for inner in tool.tools]})
        elif isinstance(tool, CallableTool):
            stored.append(_tool(tool))
    return stored


def _tool(tool: CallableTool) -> Json:
    stored = {key: value for key, value in msgspec.to_builtins(tool).items() if value is not None}
    if (callers := stored.get("allowed_callers")) is not None:
        stored["allowed_callers"] = [caller for caller in callers if caller in ("direct", "programmatic")]
    return stored


# ---- Items of tools that this server doesn't have

_SHOWN: Mapping[str, type[ShownInput]] = {str(item.__struct_config__.tag): item for item in get_args(ShownInput)}
"""The items that the model reads."""
_STORED_TOOLS = {str(item.__struct_config__.tag): item for item in get_args(StoredShown | StoredSkipped)}


def _add_tool_item(result: _Result, item: Json) -> None:
    type = item["type"]
    if type == "local_shell_call_output":
        # Its id is that of the call, so it can't have another one.
        item = {**item, "id": item.get("call_id") or item.get("id")}
    try:
        stored = _tool_item(item)
        if type != "local_shell_call_output" or result.may_have(item["id"]):
            result.add(item, {"type": type, **stored})
            return
    except (msgspec.ValidationError, TypeError):  # TypeError: a value nests too deeply
        pass
    if type not in _SHOWN:
        return
    for event in shown(msgspec.convert(item, _SHOWN[type]), f"call_{result.next_id(type)}"):
        if isinstance(event, ShownCall):
            call = {"call_id": event.id, "name": event.name, "arguments": event.arguments}
            result.add({}, {"type": "function_call", "status": "completed", **call})
        else:
            output = {"call_id": event.call_id, "output": event.text}
            result.add({}, {"type": "function_call_output", "status": "completed", **output})


def _tool_item(item: Json) -> Json:
    """The item's stored form without `id` and `type`. Raises ValidationError for a value that has another type and that
    can't be left out."""
    type = item["type"]
    is_read = frozenset(_SHOWN[type].__struct_fields__) if type in _SHOWN else frozenset()
    stored = {}
    for field in msgspec.structs.fields(_STORED_TOOLS[type]):
        value = item.get(field.name)
        try:
            if value is None and field.required:
                raise msgspec.ValidationError(field.name)
            tagged = parts.with_tags(value, msgspec.convert(value, field.type))
            if tagged != value and field.name in is_read:
                raise msgspec.ValidationError(field.name)  # the model would read the tags
            value = tagged
        except msgspec.ValidationError:
            if field.required or (value is not None and field.name in is_read):
                raise
            value = None
        if value is None:
            value = field.default
        if value is not None:
            stored[field.name] = value
    return stored
