"""Turns the chunks, or the whole answer, of OpenAI's chat API into events. PURE."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from anyserve_worker.pipelines.core.errors import UpstreamFailed
from anyserve_worker.pipelines.core.events import Event, Finish, Reasoning, Refusal, Text, Usage
from anyserve_worker.pipelines.upstream.counts import count
from anyserve_worker.pipelines.upstream.failures import error_details, failure_in_answer
from anyserve_worker.pipelines.upstream.framing import Frame, Framing
from anyserve_worker.pipelines.upstream.tool_calls import ToolCalls
from protos import contract

_REASONS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), contract.FINISH_STOP),
    **dict.fromkeys(("length", "max_tokens", "model_length"), contract.FINISH_LENGTH),
    **dict.fromkeys(("tool_calls", "function_call"), contract.FINISH_TOOL_CALLS),
    "content_filter": contract.FINISH_CONTENT_FILTER,
}
"""Every other reason, such as `error` or `network_error`, means that the answer isn't complete."""


class _Choice:
    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = ToolCalls(number)
        self.reason = ""
        """Reason of the contract; empty: the choice isn't finished."""


class ChatReader:
    """Reads one answer. The ends of choices are held back until the end, since the counts follow them."""

    def __init__(self, framing: Framing, n: int, *, calls_allowed: bool, scrub: Callable[[str], str]) -> None:
        self._framing = framing
        self._n = n
        self._calls_allowed = calls_allowed
        self._scrub = scrub
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None
        self._has_end_mark = False

    @property
    def is_finished(self) -> bool:
        return len(self._choices) == self._n and all(choice.reason for choice in self._choices.values())

    @property
    def is_complete(self) -> bool:
        return self._has_end_mark

    def push(self, data: bytes) -> Iterator[Event]:
        return self._read(self._framing.push(data))

    def finish(self) -> Iterator[Event]:
        if not self._has_end_mark:
            yield from self._read(self._framing.finish())
        if not self._has_end_mark and not self.is_finished:
            raise UpstreamFailed("The upstream's answer ended before it was complete.")
        if len(self._choices) < self._n:
            raise UpstreamFailed(f"The upstream returned {len(self._choices)} of {self._n} choices.")
        for choice in self._choices.values():
            yield from choice.calls.finish()
        if self._usage is not None:
            yield self._usage
        for choice in self._choices.values():
            reason = choice.reason or contract.FINISH_STOP
            if choice.calls and reason == contract.FINISH_STOP:
                reason = contract.FINISH_TOOL_CALLS
            yield Finish(reason, choice.number)

    def _read(self, frames: Iterable[Frame]) -> Iterator[Event]:
        for frame in frames:
            if frame.is_end:
                self._has_end_mark = True
                return
            yield from self._read_object(frame.value)

    def _read_object(self, value: Any) -> Iterator[Event]:
        if not isinstance(value, dict):
            raise UpstreamFailed("The upstream's answer is not a chat.")
        choices = value.get("choices")
        if value.get("error") or (choices is None and (value.get("object") == "error" or "detail" in value)):
            raise failure_in_answer(error_details(value), self._scrub)
        self._usage = _usage(value.get("usage")) or self._usage
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                yield from self._read_choice(choice)

    def _read_choice(self, fields: dict[str, Any]) -> Iterator[Event]:
        if fields.get("error"):
            raise failure_in_answer(error_details(fields), self._scrub)
        number = fields.get("index") or 0
        if type(number) is not int or not 0 <= number < self._n:
            raise UpstreamFailed("The upstream returned a choice that wasn't requested.")
        choice = self._choices.setdefault(number, _Choice(number))
        delta = fields.get("delta") or fields.get("message")
        if isinstance(delta, dict):
            yield from self._read_delta(choice, delta)
        if reason := fields.get("finish_reason"):
            if not isinstance(reason, str) or reason not in _REASONS:
                raise UpstreamFailed(f"The upstream ended its answer with {self._scrub(str(reason))!r}.")
            choice.reason = _REASONS[reason]

    def _read_delta(self, choice: _Choice, delta: dict[str, Any]) -> Iterator[Event]:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and isinstance(reasoning, str):
            yield Reasoning(reasoning, choice.number)
        yield from _content(delta.get("content"), choice.number)
        if (refusal := delta.get("refusal")) and isinstance(refusal, str):
            yield Refusal(refusal, choice.number)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                yield from self._read_call(choice, call.get("index"), call)
        if isinstance(function := delta.get("function_call"), dict):
            yield from self._read_call(choice, 0, {"function": function})

    def _read_call(self, choice: _Choice, key: Any, call: dict[str, Any]) -> Iterator[Event]:
        if not self._calls_allowed:
            raise UpstreamFailed("The upstream called a tool although the request allows none.")
        if isinstance(custom := call.get("custom"), dict):
            yield from choice.calls.push(key, call.get("id"), custom.get("name"), custom.get("input"), is_custom=True)
            return
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        yield from choice.calls.push(key, call.get("id"), function.get("name"), function.get("arguments"))


def _content(content: Any, choice: int) -> Iterator[Event]:
    """Text, or, from some servers, a list of parts with text and thinking."""
    if isinstance(content, str):
        if content:
            yield Text(content, choice)
        return
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        thinking = part.get("thinking")
        if isinstance(text := part.get("text"), str) and text:
            yield Text(text, choice)
        elif isinstance(thinking, str) and thinking:
            yield Reasoning(thinking, choice)
        elif isinstance(thinking, list):
            for piece in thinking:
                if isinstance(piece, dict) and isinstance(piece.get("text"), str):
                    yield Reasoning(piece["text"], choice)


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    return Usage(
        prompt,
        completion,
        _detail(usage, "prompt_tokens_details", "cached_tokens"),
        _detail(usage, "completion_tokens_details", "reasoning_tokens"),
    )


def _detail(usage: dict[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return count(details.get(name)) if isinstance(details, dict) else None
