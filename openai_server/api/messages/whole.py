"""Whole answers of `/v1/messages`. PURE."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.messages.answer import ContentBlock, DirectCaller, TextBlock, ThinkingBlock, ToolUseBlock
from openai_server.api.messages.ending import Ending, Signature, message, message_usage, tool_use_id
from openai_server.api.messages.schema import MessagesTurn
from openai_server.core.answer import Answer
from openai_server.core.events import CallArguments, CallBegun, Content, Event, Finish, Reasoning, Refusal
from openai_server.core.sealing import Seal
from openai_server.core.usage import total
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.readers import reader_of


def whole(
    identity: AnswerIdentity,
    answers: Sequence[Answer],
    request: MessagesTurn,
    format: AnswerFormat | None,
    seal: Seal | None = None,
) -> WholeAnswer:
    """`answers` has one item, which has one choice. `seal` is for reasoning whose text is left out."""
    [choice] = [choice for answer in answers for choice in answer.choices]
    events: list[Event] = [Content(choice.text)]
    if format is not None:
        events = reader_of(format).read(choice.text, choice.finish_reason, ended=True)
    elif choice.finish_reason is not None:
        events.append(Finish(choice.finish_reason))
    ending = Ending(request)
    for event in events:
        ending.note(event)
    counts = total(answer.usage for answer in answers)
    content = _blocks(events, omits_thinking=request.omits_thinking, seal=seal)
    usage = message_usage(counts, is_batched=request.is_batched)
    body = message(identity.id, identity.model, content, ending.delta(counts), usage)
    reasons = [event.reason for event in events if isinstance(event, Finish)]
    return WholeAnswer(body, 1, reasons, counts)


def _blocks(events: Iterable[Event], *, omits_thinking: bool, seal: Seal | None) -> list[ContentBlock]:
    """The blocks of the answer. Text that is only white space is left out, since the API refuses such blocks."""
    blocks: list[ContentBlock] = []
    arguments: dict[int, str] = {}
    calls: dict[int, ToolUseBlock] = {}
    for event in events:
        last = blocks[-1] if blocks else None
        match event:
            case Content(text=text) | Refusal(text=text):
                if isinstance(last, TextBlock):
                    last.text += text
                else:
                    blocks.append(TextBlock(text))
            case Reasoning(text=text):
                if isinstance(last, ThinkingBlock):
                    last.thinking += text
                else:
                    blocks.append(ThinkingBlock(text, ""))
            case CallBegun(index=index, name=name, id=id):
                assert id is not None  # set by ChoiceReader
                calls[index] = ToolUseBlock(tool_use_id(id), name, {}, DirectCaller())
                blocks.append(calls[index])
            case CallArguments(index=index, text=text):
                arguments[index] = arguments.get(index, "") + text
    for index, call in calls.items():
        call.input = _input(arguments.get(index, ""))
    for block in blocks:
        if isinstance(block, ThinkingBlock):
            signature = Signature(seal)
            signature.add(block.thinking)
            block.signature = signature.text
            if omits_thinking:
                block.thinking = ""
    return [block for block in blocks if not isinstance(block, TextBlock) or block.text.strip()]


def _input(arguments: str) -> dict[str, Any]:
    """The arguments of a call. Empty if they are no JSON object: the answer was cut off inside them, which its stop
    reason shows, or the model wrote something else."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
