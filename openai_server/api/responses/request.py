"""The request of `/v1/responses`. PURE.

`/v1/responses/input_tokens` and `/v1/responses/compact` have the same input: they use `parse` too. A request that
continues stored items is parsed twice: at first without them, and `with_history` when they are known.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec
import orjson
from msgspec.structs import replace

from openai_server.access.caps import Caps
from openai_server.api.responses.input.body import ResponsesBody, check_metadata, guide_of_format
from openai_server.api.responses.input.choice import tool_use
from openai_server.api.responses.input.configuration import AnyFormat
from openai_server.api.responses.input.conversation import OWN_ITEMS, ItemFields, conversation
from openai_server.api.responses.input.fields import INCLUDABLE, OTHER_NAMES, RESPONSES_FIELDS, STORED
from openai_server.api.responses.input.items import (
    AdditionalToolsInput,
    CompactionInput,
    CompactionTriggerInput,
    ConfigurationUpdateInput,
    Item,
    ItemReferenceInput,
    MessageInput,
    ToolSearchOutputInput,
    add_types,
)
from openai_server.api.responses.input.limits import check_limits
from openai_server.api.responses.input.repeated import base_of, repeated_settings
from openai_server.api.responses.input.toolbox import ToolGroup, toolbox
from openai_server.api.responses.settings import ResponsesRequest, StoreUse
from openai_server.api.schemas import check_extensions, check_reasoning_limits, convert, load
from openai_server.api.schemas.guides import decode_schemas, guide_of
from openai_server.api.schemas.requests import reasoning_limits_of
from openai_server.api.schemas.tables import missing
from openai_server.core.errors import InvalidRequest, UnsupportedParameter
from openai_server.core.turn import Guide, TemplateOptions, Turn
from openai_server.store.records import NOTHING

NAMES: Mapping[str, str] = {
    "custom_format": "{}.format.definition",
    "messages": "input",
    "parameters": "{}.parameters",
    "prompt": "input",
    "reasoning_effort": "reasoning.effort",
    "token_limit": "max_output_tokens",
    "tool_use": "tool_choice",
    "verbosity": "text.verbosity",
}


def parse(body: bytes, caps: Caps) -> ResponsesRequest:
    """Raises InvalidRequest."""
    request = _checked(load(body), len(body))
    answer = _request(request, OWN_ITEMS, items=_own_items(request), may_be_empty=_continues(request))
    answer.turn = caps.applied(answer.turn, request.prompt_fields(), len(body))
    return answer


def parse_with_source(body: bytes, caps: Caps) -> ResponsesRequest:
    """The same with `source`, for servers with a store. Raises InvalidRequest."""
    request = parse(body, caps)
    request.source = bytes(body)
    return request


def with_history(
    request: ResponsesRequest, history: Sequence[bytes], references: Mapping[str, bytes], caps: Caps
) -> ResponsesRequest:
    """The request with the items of its history before its own, and with `references` by id in place of those that
    refer to them. Other references are left out: they refer to the history.

    The items are JSON objects. Raises InvalidRequest.
    """
    source = request.source
    body = _checked(load(source), len(source))
    earlier = decoded_items(history)
    own: Sequence[Item] = _own_items(body)
    if isinstance(body.input, str):
        own = [MessageInput(role="user", content=body.input)]
    if request.use.references:
        items = dict(zip(references, decoded_items(references.values()), strict=True))
        found = (items.get(item.id) if isinstance(item, ItemReferenceInput) else item for item in own)
        own = [item for item in found if item is not None]
    n_bytes = len(source) + sum(map(len, history)) + sum(map(len, references.values()))
    body.input = [*_since_summary(earlier), *own]
    name = "conversation" if request.use.base.conversation_id else "previous_response_id"
    answer = _request(body, ItemFields(len(body.input) - len(own), name), items=body.input)
    answer.turn = caps.applied(answer.turn, body.prompt_fields(), n_bytes)
    answer.turn.model = request.turn.model  # the path may contain it
    answer.source, answer.compacts, answer.use = source, request.compacts or answer.compacts, request.use
    return answer


def _since_summary(items: Sequence[Item]) -> Sequence[Item]:
    """The items from the last summary on, which replaces those before it."""
    for i in reversed(range(len(items))):
        if isinstance(items[i], CompactionInput):
            return items[i:]
    return items


def decoded_items(items: Iterable[bytes]) -> list[Item]:
    """The items from their JSON objects."""
    return _items.decode(b"[" + b",".join(items) + b"]")


_items: msgspec.json.Decoder[list[Item]] = msgspec.json.Decoder(list[Item])


def parse_to_compact(body: bytes, caps: Caps) -> ResponsesRequest:
    """The request of `/v1/responses/compact`. Raises InvalidRequest."""
    return _to_compact(parse(body, caps))


def parse_to_compact_with_source(body: bytes, caps: Caps) -> ResponsesRequest:
    """The same with `source`. Raises InvalidRequest."""
    return _to_compact(parse_with_source(body, caps))


def _to_compact(request: ResponsesRequest) -> ResponsesRequest:
    if request.turn.model is None:
        raise missing("model")
    for name, value in (("stream", request.stream), ("background", request.use.background)):
        if value:
            raise InvalidRequest(f"'{name}' is not supported by this endpoint.", param=name)
    return replace(request, compacts=True)


def _checked(payload: dict[str, Any], body_size: int) -> ResponsesBody:
    _check_names(payload)
    add_types(payload.get("input"))
    decode_schemas(payload)
    check_limits(payload, body_size)
    RESPONSES_FIELDS.clean(payload)
    request = convert(payload, ResponsesBody)
    check_extensions(request)
    check_metadata(request.metadata or {})
    for i, name in enumerate(request.include or ()):
        if name not in INCLUDABLE:
            raise InvalidRequest(
                f"'include[{i}]' must be one of {', '.join(INCLUDABLE)}.", param=f"include[{i}]", code="invalid_value"
            )
    return request


def _check_names(payload: Mapping[str, Any]) -> None:
    """Raises UnsupportedParameter for fields that can be replaced, with their replacement, and InvalidRequest for
    fields that exclude each other."""
    if payload.get("previous_response_id") is not None and payload.get("conversation") is not None:
        raise InvalidRequest(
            "'previous_response_id' and 'conversation' exclude each other; set only one of them.",
            param="previous_response_id",
        )
    for name, reason in STORED.items():
        if payload.get(name) is not None:
            raise UnsupportedParameter(name, f"'{name}' is not supported: {reason}.")
    for name, other_name in OTHER_NAMES.items():
        if payload.get(name) is not None:
            raise UnsupportedParameter(name, f"'{name}' is not a field of this API; use '{other_name}'.")


def own_items(request: ResponsesRequest) -> str | Sequence[Any]:
    """The items of the request itself, as the client wrote them or as they are stored, without those that only control
    it."""
    items = load(request.source).get("input") or ()
    if not isinstance(items, list):
        return cast(str, items)
    add_types(items)
    own = []
    for item in items:
        if item["type"] != "item_reference":
            own.append(item)
        elif (body := request.referenced.get(item["id"])) is not None:
            own.append(orjson.loads(body))
    return [item for item in own if item["type"] != "compaction_trigger"]


def _own_items(request: ResponsesBody) -> Sequence[Item]:
    return request.input if isinstance(request.input, list) else ()


def _continues(request: ResponsesBody) -> bool:
    """Whether the request continues stored items."""
    return base_of(request) != NOTHING or any(isinstance(item, ItemReferenceInput) for item in _own_items(request))


def _request(
    request: ResponsesBody, fields: ItemFields, *, items: Sequence[Item], may_be_empty: bool = False
) -> ResponsesRequest:
    """`may_be_empty`: whether the stored items that the request continues come later."""
    if request.input is None and not may_be_empty:
        raise missing("input")
    box = toolbox(_tool_groups(request, items, fields))
    use = tool_use(request, box)
    chat = conversation(request.instructions, request.input or (), box, fields)
    if not (chat.messages or may_be_empty):
        raise InvalidRequest("'input' has no message.", param="input")
    configuration = _Configuration(request, items, fields)
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
        in_items=True,
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
        extras=request.extras(),
        names=names,
        message_fields=chat.fields,
        tool_fields=box.fields,
    )
    return ResponsesRequest(
        turn,
        bool(request.stream),
        include_usage=True,
        service_tier=request.service_tier,
        settings=repeated_settings(request, configuration.format, configuration.effort),
        include=include,
        tools=box.called,
        compacts=_compacts(items, fields),
        use=StoreUse(
            store=request.store,
            background=bool(request.background),
            base=base_of(request),
            references={
                item.id: fields.path(i) for i, item in enumerate(items) if isinstance(item, ItemReferenceInput)
            },
        ),
        sealed_items=chat.sealed,
        reasoning_pieces=chat.pieces,
    )


def _tool_groups(request: ResponsesBody, items: Sequence[Item], fields: ItemFields) -> Iterable[ToolGroup]:
    yield ToolGroup("tools", request.tools or ())
    for i, item in enumerate(items):
        if isinstance(item, AdditionalToolsInput | ToolSearchOutputInput):
            yield ToolGroup(f"{fields.path(i)}.tools", item.tools or (), may_replace=True)


def _compacts(items: Sequence[Item], fields: ItemFields) -> bool:
    """Raises InvalidRequest for a trigger that is not the last item."""
    for i, item in enumerate(items):
        if isinstance(item, CompactionTriggerInput) and i < len(items) - 1:
            raise InvalidRequest(f"'{fields.path(i)}' must be the last item.", param=fields.path(i))
    return bool(items) and isinstance(items[-1], CompactionTriggerInput)


class _Configuration:
    """The settings that the input's items may replace. Each of them stays in effect until the next one."""

    def __init__(self, request: ResponsesBody, items: Sequence[Item], fields: ItemFields) -> None:
        self.effort = request.reasoning.effort if request.reasoning else None
        self.effort_field = "reasoning.effort"
        self.format: AnyFormat | None = request.text.format if request.text else None
        format_field = "text.format"
        for i, item in enumerate(items):
            if not isinstance(item, ConfigurationUpdateInput):
                continue
            if item.reasoning is not None and item.reasoning.effort is not None:
                self.effort, self.effort_field = item.reasoning.effort, f"{fields.path(i)}.reasoning.effort"
            if item.text is not None and item.text.format is not None:
                self.format, format_field = item.text.format, f"{fields.path(i)}.text.format"
        guide = guide_of_format(self.format, format_field)
        self.guide: Guide = guide_of(request, *([guide] if guide else ()))
