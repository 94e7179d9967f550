"""The request of `/v1/responses`. PURE.

`/v1/responses/input_tokens` and `/v1/responses/compact` have the same input: they use `parse` too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from anyserve_common.text import shortened
from openai_server.access.caps import Caps
from openai_server.api.responses.input.body import MAX_LABEL, MAX_LABEL_VALUE, ResponsesBody, guide_of_format
from openai_server.api.responses.input.choice import tool_use
from openai_server.api.responses.input.configuration import AnyFormat, FlatSchemaFormat, ObjectFormat, PlainFormat
from openai_server.api.responses.input.conversation import conversation
from openai_server.api.responses.input.fields import INCLUDABLE, OTHER_NAMES, RESPONSES_FIELDS, STORED
from openai_server.api.responses.input.items import (
    AdditionalToolsInput,
    CompactionTriggerInput,
    ConfigurationUpdateInput,
    Item,
    ToolSearchOutputInput,
)
from openai_server.api.responses.input.limits import check_limits
from openai_server.api.responses.input.toolbox import ToolGroup, reported, toolbox
from openai_server.api.responses.settings import ResponsesRequest, Settings
from openai_server.api.schemas import check_extensions, check_reasoning_limits, convert, load
from openai_server.api.schemas.guides import decode_schemas, guide_of
from openai_server.api.schemas.requests import reasoning_limits_of
from openai_server.api.schemas.tables import missing
from openai_server.core.errors import AboveLimit, InvalidRequest, UnsupportedParameter
from openai_server.core.turn import Guide, TemplateOptions, Turn

NAMES: Mapping[str, str] = {
    "custom_format": "{}.format.definition",
    "messages": "input",
    "parameters": "{}.parameters",
    "prompt": "input",
    "reasoning_effort": "reasoning.effort",
    "token_limit": "max_output_tokens",
    "tool_use": "tool_choice",
}


def parse(body: bytes, caps: Caps) -> ResponsesRequest:
    """Raises InvalidRequest."""
    request = _checked(load(body), len(body))
    answer = _request(request)
    answer.turn = caps.applied(answer.turn, request.prompt_fields(), len(body))
    return answer


def parse_to_compact(body: bytes, caps: Caps) -> ResponsesRequest:
    """The request of `/v1/responses/compact`. Raises InvalidRequest."""
    request = parse(body, caps)
    if request.turn.model is None:
        raise missing("model")
    if request.stream:
        raise InvalidRequest("'stream' is not supported by this endpoint: it has no stream.", param="stream")
    return replace(request, compacts=True)


def _checked(payload: dict[str, Any], body_size: int) -> ResponsesBody:
    _check_names(payload)
    _add_types(payload.get("input"))
    decode_schemas(payload)
    check_limits(payload, body_size)
    RESPONSES_FIELDS.clean(payload)
    request = convert(payload, ResponsesBody)
    check_extensions(request)
    for name, value in (request.metadata or {}).items():
        if len(name) > MAX_LABEL or len(value) > MAX_LABEL_VALUE:
            raise AboveLimit(
                f"metadata.{shortened(name)}",
                f"must have at most {MAX_LABEL} characters in its key and {MAX_LABEL_VALUE} in its value",
                kind="string",
            )
    for i, name in enumerate(request.include or ()):
        if name not in INCLUDABLE:
            raise InvalidRequest(
                f"'include[{i}]' must be one of {', '.join(INCLUDABLE)}.", param=f"include[{i}]", code="invalid_value"
            )
    return request


def _check_names(payload: Mapping[str, Any]) -> None:
    """Raises UnsupportedParameter for fields that can be replaced, with their replacement."""
    for name, reason in STORED.items():
        if payload.get(name) is not None:
            raise UnsupportedParameter(name, f"'{name}' is not supported: {reason}.")
    if payload.get("background") is True:
        raise UnsupportedParameter(
            "background", "'background' is not supported: this server stores nothing, so the response would be lost."
        )
    for name, other_name in OTHER_NAMES.items():
        if payload.get(name) is not None:
            raise UnsupportedParameter(name, f"'{name}' is not a field of this API; use '{other_name}'.")


def _add_types(items: object) -> None:
    """Adds the type of messages and references, which may be absent. Raises InvalidRequest for a reference."""
    if not isinstance(items, list):
        return
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        if item.get("type") is None:
            names = {name for name, value in item.items() if value is not None}
            is_message = ("role" in names and "tools" not in names) or "content" in names <= {"content", "id", "phase"}
            item["type"] = "message" if is_message else "item_reference" if names == {"id"} else None
        if item["type"] == "item_reference":
            raise UnsupportedParameter(
                f"input[{i}]", f"'input[{i}]' refers to a stored item, but this server stores nothing. Send the item."
            )


def _request(request: ResponsesBody) -> ResponsesRequest:
    items: Sequence[Item] = () if isinstance(request.input, str) else request.input
    box = toolbox(_tool_groups(request, items))
    use = tool_use(request, box)
    chat = conversation(request.instructions, request.input, box)
    if not chat.messages:
        raise InvalidRequest("'input' has no message.", param="input")
    configuration = _Configuration(request, items)
    guide = configuration.guide
    if guide.grammar is not None and use:
        raise InvalidRequest(
            f"A grammar in GBNF in '{guide.field}' can't be combined with tools that may be called.", param=guide.field
        )
    names = {**NAMES, "reasoning_effort": configuration.effort_field}
    if request.repeat_penalty is not None:
        names["repetition_penalty"] = "repeat_penalty"
    limits, reasoning_limit = reasoning_limits_of(request), None
    check_reasoning_limits(limits)
    for name, value in limits.items():
        names["reasoning_limit"], reasoning_limit = name, value
    sampling, include = request.sampling(), frozenset(request.include or ())
    turn = Turn(
        model=request.model,
        messages=chat.messages,
        tools=box.tools,
        tool_use=use,
        template=TemplateOptions(
            chat_template_kwargs=request.chat_template_kwargs,
            enable_thinking=request.enable_thinking,
            reasoning_effort=configuration.effort,
        ),
        effort_is_hint=True,
        sampling=sampling,
        guide=guide,
        drops_oldest=request.truncation == "auto",
        token_limit=request.max_output_tokens,
        reasoning_limit=reasoning_limit,
        top_logprobs=(request.top_logprobs or 0) if "message.output_text.logprobs" in include else None,
        names=names,
        message_fields=chat.fields,
        tool_fields=box.fields,
    )
    return ResponsesRequest(
        turn,
        bool(request.stream),
        include_usage=True,
        settings=_settings(request, configuration),
        include=include,
        tools=box.called,
        compacts=_compacts(items),
        sealed_items=chat.sealed,
        reasoning_pieces=chat.pieces,
    )


def _tool_groups(request: ResponsesBody, items: Sequence[Item]) -> Iterable[ToolGroup]:
    yield ToolGroup("tools", request.tools or ())
    for i, item in enumerate(items):
        if isinstance(item, AdditionalToolsInput | ToolSearchOutputInput):
            yield ToolGroup(f"input[{i}].tools", item.tools or (), may_replace=True)


def _compacts(items: Sequence[Item]) -> bool:
    """Raises InvalidRequest for a trigger that is not the last item."""
    for i, item in enumerate(items):
        if isinstance(item, CompactionTriggerInput) and i < len(items) - 1:
            raise InvalidRequest(f"'input[{i}]' must be the last item.", param=f"input[{i}]")
    return bool(items) and isinstance(items[-1], CompactionTriggerInput)


class _Configuration:
    """The settings that the input's items may replace. Each of them stays in effect until the next one."""

    def __init__(self, request: ResponsesBody, items: Sequence[Item]) -> None:
        self.effort = request.reasoning.effort if request.reasoning else None
        self.effort_field = "reasoning.effort"
        self.format: AnyFormat | None = request.text.format if request.text else None
        format_field = "text.format"
        for i, item in enumerate(items):
            if not isinstance(item, ConfigurationUpdateInput):
                continue
            if item.reasoning is not None and item.reasoning.effort is not None:
                self.effort, self.effort_field = item.reasoning.effort, f"input[{i}].reasoning.effort"
            if item.text is not None and item.text.format is not None:
                self.format, format_field = item.text.format, f"input[{i}].text.format"
        guide = guide_of_format(self.format, format_field)
        self.guide: Guide = guide_of(request, *([guide] if guide else ()))


def _settings(request: ResponsesBody, configuration: _Configuration) -> Settings:
    text: dict[str, Any] = {"format": _format(configuration.format)}
    if request.text and request.text.verbosity:
        text["verbosity"] = request.text.verbosity
    reasoning = request.reasoning
    summary = (reasoning.summary or reasoning.generate_summary) if reasoning else None
    sampling = {
        name: value
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs")
        if (value := getattr(request, name)) is not None
    }
    return Settings(
        instructions=request.instructions,
        tools=reported(request.tools or ()),
        tool_choice=_choice(request),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        truncation=request.truncation or "disabled",
        text=text,
        reasoning={"effort": configuration.effort, "summary": summary},
        metadata=request.metadata or {},
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
        user=request.user,
        **sampling,
    )


def _format(format: AnyFormat | None) -> Mapping[str, Any]:
    match format:
        case None | PlainFormat():
            return {"type": "text"}
        case ObjectFormat():
            return {"type": "json_object"}
        case FlatSchemaFormat(name=name, description=description, schema=schema, strict=strict):
            return {
                "type": "json_schema",
                "name": name,
                "description": description,
                "schema": schema,
                "strict": bool(strict),
            }


def _choice(request: ResponsesBody) -> Any:
    choice = msgspec.to_builtins(request.tool_choice)
    if not isinstance(choice, dict):
        return choice or "auto"
    if choice["type"] == "allowed_tools":
        choice["mode"] = choice["mode"] or "auto"
        choice["tools"] = [_without_nulls(tool) for tool in choice["tools"]]
    return _without_nulls(choice)


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}
