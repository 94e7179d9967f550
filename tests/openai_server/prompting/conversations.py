"""Conversations in two forms: as an OpenAI client sends them and as transformers takes them."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from openai_server.api.schemas import parse_chat
from openai_server.core.messages import Message
from openai_server.prompting.messages import Form

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    sent: list[Json]
    """Messages as the client sends them."""
    conversation: list[Json]
    """Messages as transformers takes them."""
    tools: list[Json] = field(default_factory=list)
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    @property
    def messages(self) -> list[Message]:
        return parse_chat(json.dumps({"messages": self.sent}).encode()).messages


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather <now> & "here", in °C.',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "days": {"type": "integer", "description": "How many", "minimum": 1, "default": 3},
                "units": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Scale"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Looks things up.",
        "parameters": {
            "type": "object",
            "properties": {
                "queries": {"type": "array", "items": {"type": "string"}, "description": "What to look for"},
                "filter": {
                    "type": "object",
                    "description": "Leaves out others",
                    "properties": {"year": {"type": "number"}},
                    "required": [],
                    "additionalProperties": {"type": "string"},
                },
            },
            "required": ["queries"],
        },
    },
}
TOOLS: list[Json] = [WEATHER, SEARCH]
BARE_TOOL = {"type": "function", "function": {"name": "now"}}

LONG_ID, OTHER_ID = "call_8Yq2mLwRkP0sTzVbN4xJ", "call_XK3vd71hQeUo9aGcMf5W"
SHORT_IDS = {LONG_ID: "q3eknpd3h", OTHER_ID: "xnz7283rk", "call_1": "ny7xr9po0"}
"""Ids for templates that call for short ones. A change of the digest would invalidate cached prompts."""
ARGUMENTS: Json = {"city": "Zürich <a>", "days": 2}
OTHER_ARGUMENTS: Json = {"queries": ['"x"', "y"], "filter": {"year": 1999.5}}


def message(role: str, content: str | list[Json]) -> Json:
    return {"role": role, "content": content}


def call(name: str, arguments: Json | str, id: str = LONG_ID) -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _text(arguments: Json) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def result(content: str, id: str = LONG_ID) -> Json:
    return {"role": "tool", "tool_call_id": id, "content": content}


QUESTION = message("user", "How is the weather <in> Zürich? {{ x }}")
SYSTEM = message("system", "Be brief & kind.\n")
TURNS = [
    SYSTEM,
    message("user", "Hi"),
    message("assistant", " Hello!\n\nHow are you? "),
    message("user", "Well. And you?"),
]
PARTS = message("user", [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}])

ONE_CALL = (
    [QUESTION, {"role": "assistant", "content": None, "tool_calls": [call("get_weather", _text(ARGUMENTS))]}],
    [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS)]}],
)
RAIN = result('{"sky": "rain", "wind": 3}')
TWO_RESULTS = [
    result("rain"),
    result("a\nb", OTHER_ID),
    message("assistant", "It rains."),
    message("user", "Thanks."),
]
WHY = "I should\n\nlook it up."

CASES: Mapping[str, Case] = {
    "user": Case([QUESTION], [QUESTION]),
    "system": Case([SYSTEM, QUESTION], [SYSTEM, QUESTION]),
    "turns": Case(TURNS, TURNS),
    "history": Case(TURNS[:3], TURNS[:3], add_generation_prompt=False),
    "parts": Case([PARTS], [message("user", "One.\nTwo.")]),
    "tools": Case([QUESTION], [QUESTION], TOOLS),
    "system, tools": Case([SYSTEM, QUESTION], [SYSTEM, QUESTION], TOOLS),
    "bare tool": Case([QUESTION], [QUESTION], [BARE_TOOL]),
    "call": Case([*ONE_CALL[0], RAIN], [*ONE_CALL[1], RAIN], TOOLS),
    "call, no tools": Case([*ONE_CALL[0], RAIN], [*ONE_CALL[1], RAIN]),
    "call, answer": Case(
        [*ONE_CALL[0], RAIN, message("assistant", "It rains."), message("user", "Oh.")],
        [*ONE_CALL[1], RAIN, message("assistant", "It rains."), message("user", "Oh.")],
        TOOLS,
    ),
    "text and call": Case(
        [QUESTION, ONE_CALL[0][1] | {"content": "Let me see."}, RAIN],
        [QUESTION, ONE_CALL[1][1] | {"content": "Let me see."}, RAIN],
        TOOLS,
    ),
    "two calls": Case(
        [
            QUESTION,
            {
                "role": "assistant",
                "tool_calls": [
                    call("get_weather", _text(ARGUMENTS)),
                    call("search", _text(OTHER_ARGUMENTS), OTHER_ID),
                ],
            },
            *TWO_RESULTS,
        ],
        [
            QUESTION,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call("get_weather", ARGUMENTS), call("search", OTHER_ARGUMENTS, OTHER_ID)],
            },
            *TWO_RESULTS,
        ],
        TOOLS,
    ),
    "older call": Case(
        [
            QUESTION,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "get_weather", "arguments": _text(ARGUMENTS)},
            },
            {"role": "function", "name": "get_weather", "content": "rain"},
        ],
        [
            QUESTION,
            {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS, "call_1")]},
            {"role": "tool", "name": "get_weather", "tool_call_id": "call_1", "content": "rain"},
        ],
        TOOLS,
    ),
    "reasoning": Case(
        [QUESTION, message("assistant", "Rain.") | {"reasoning_content": WHY}, message("user", "Oh.")],
        [QUESTION, message("assistant", "Rain.") | {"reasoning": WHY}, message("user", "Oh.")],
    ),
    "reasoning and call": Case(
        [QUESTION, ONE_CALL[0][1] | {"reasoning_content": WHY}, RAIN],
        [QUESTION, ONE_CALL[1][1] | {"reasoning": WHY}, RAIN],
        TOOLS,
    ),
    "reasoning, text and call": Case(
        [QUESTION, ONE_CALL[0][1] | {"reasoning_content": WHY, "content": "Let me see."}, RAIN],
        [QUESTION, ONE_CALL[1][1] | {"reasoning": WHY, "content": "Let me see."}, RAIN],
        TOOLS,
    ),
    "developer": Case([message("developer", "Be kind."), QUESTION], [message("developer", "Be kind."), QUESTION]),
    "continued": Case(
        [QUESTION, message("assistant", "It is")],
        [QUESTION, message("assistant", "It is")],
        add_generation_prompt=False,
        continue_final_message=True,
    ),
    "continued after a space": Case(
        [SYSTEM, QUESTION, message("assistant", "It is ")],
        [SYSTEM, QUESTION, message("assistant", "It is ")],
        add_generation_prompt=False,
        continue_final_message=True,
    ),
}


def as_wanted(conversation: list[Json], form: Form) -> list[Json]:
    """Returns the conversation in the form that a template calls for."""
    conversation = deepcopy(conversation)
    for turn in conversation:
        if turn["role"] == "developer" and not form.developer:
            turn["role"] = "system"
        if "tool_calls" in turn:
            if form.null_content and turn["content"] == "":
                turn["content"] = None
            if form.content_or_reasoning and turn.get("reasoning"):
                turn["content"] = ""
            for tool_call in turn["tool_calls"]:
                if form.text_arguments:
                    tool_call["function"]["arguments"] = _text(tool_call["function"]["arguments"])
                if form.short_ids:
                    tool_call["id"] = SHORT_IDS[tool_call["id"]]
        if form.short_ids and "tool_call_id" in turn:
            turn["tool_call_id"] = SHORT_IDS[turn["tool_call_id"]]
    return conversation


def tools_as_wanted(tools: list[Json], form: Form) -> list[Json] | None:
    tools = deepcopy(tools)
    for tool in tools:
        if form.whole_tools:
            tool["function"].setdefault("description", "")
            tool["function"].setdefault("parameters", {"type": "object", "properties": {}})
    return tools or None
