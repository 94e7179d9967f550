"""Settings of a request that its response repeats, with the values that are in effect. PURE."""

from collections.abc import Mapping
from typing import Any

import msgspec

from openai_server.api.responses.input.body import ResponsesBody
from openai_server.api.responses.input.configuration import AnyFormat, FlatSchemaFormat, ObjectFormat, PlainFormat
from openai_server.api.responses.input.toolbox import reported
from openai_server.api.responses.settings import Settings
from openai_server.core.tiers import DEFAULT, TIERS
from openai_server.store.records import Base


def base_of(request: ResponsesBody) -> Base:
    """The stored object that the request continues."""
    conversation = request.conversation
    return Base(request.previous_response_id, conversation if isinstance(conversation, str | None) else conversation.id)


def repeated_settings(request: ResponsesBody, format: AnyFormat | None, effort: str | None) -> Settings:
    """`format` and `effort` are those in effect, which items of the input may have set."""
    text: dict[str, Any] = {"format": _format(format)}
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
        reasoning={"effort": effort, "summary": summary},
        metadata=request.metadata or {},
        service_tier=TIERS.get(request.service_tier or "", DEFAULT).name,
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
        user=request.user,
        background=bool(request.background),
        previous_response_id=base_of(request).previous_response_id,
        conversation=base_of(request).conversation_id,
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
