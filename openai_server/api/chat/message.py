"""Turns events into the assistant's message: the whole message, or the deltas of a stream. PURE."""

from collections.abc import Iterable

from msgspec import UNSET

from openai_server.api.chat.answer import (
    AnswerMessage,
    CallDelta,
    Called,
    CalledFunction,
    CustomCalled,
    CustomDelta,
    Delta,
    FunctionDelta,
)
from openai_server.core.events import CallArguments, CallBegun, Content, Event, Reasoning, Refusal


def delta_of(event: Event, *, legacy: bool = False) -> Delta | None:
    """The delta for an event; None if it doesn't change the message. `legacy`: calls have the older API's form, which
    has only one."""
    match event:
        case Content(text=text):
            return Delta(content=text)
        case Reasoning(text=text):
            return Delta(reasoning_content=text)
        case Refusal(text=text):
            return Delta(refusal=text)
        case CallArguments(index=index, text=text, custom=custom):
            if custom:
                return Delta(tool_calls=[CallDelta(index=index, custom=CustomDelta(input=text))])
            function = FunctionDelta(arguments=text)
            if legacy:
                return None if index else Delta(function_call=function)
            return Delta(tool_calls=[CallDelta(index=index, function=function)])
        case CallBegun(index=index, name=name, id=id, custom=custom):
            assert id is not None  # set by ChoiceReader
            if custom:
                called = CustomDelta(name=name, input="")
                return Delta(tool_calls=[CallDelta(index=index, id=id, type="custom", custom=called)])
            function = FunctionDelta(name=name, arguments="")
            if legacy:
                return None if index else Delta(function_call=function)
            return Delta(tool_calls=[CallDelta(index=index, id=id, type="function", function=function)])
    return None


def message_of(events: Iterable[Event], *, legacy: bool = False, must_call: bool = False) -> AnswerMessage:
    """The message of all events of a choice. `legacy`: a call has the older API's form. `must_call`: empty content is
    null."""
    content, reasoning, refusal = "", "", ""
    calls: list[Called] = []
    for event in events:
        match event:
            case Content(text=text):
                content += text
            case Reasoning(text=text):
                reasoning += text
            case Refusal(text=text):
                refusal += text
            case CallBegun(name=name, id=id, custom=True):
                assert id is not None
                calls.append(Called(id, "custom", custom=CustomCalled(name, "")))
            case CallBegun(name=name, id=id):
                assert id is not None
                calls.append(Called(id, "function", CalledFunction(name, "")))
            case CallArguments(index=index, text=text):
                called = calls[index]
                if called.custom:
                    called.custom.input += text
                elif called.function:
                    called.function.arguments += text
    without_content = not content and (must_call or bool(calls or refusal))
    return AnswerMessage(
        "assistant",
        None if without_content else content,
        refusal or None,
        reasoning or UNSET,
        calls if calls and not legacy else UNSET,
        calls[0].function if calls and legacy else UNSET,
    )
