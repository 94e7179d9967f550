"""Turns the objects of an answer into events, as a mapping describes. PURE."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from anyserve_worker.pipelines.core.errors import UpstreamFailed
from anyserve_worker.pipelines.core.events import Event, Finish, Reasoning, Text, Usage
from anyserve_worker.pipelines.http_api.api_errors import ErrorForm
from anyserve_worker.pipelines.http_api.paths import JsonPath, Locations, Requirement, as_text, named
from anyserve_worker.pipelines.http_api.schema import Answer, Calls, Counts
from anyserve_worker.pipelines.upstream.counts import count
from anyserve_worker.pipelines.upstream.framing import (
    Frame,
    Framing,
    JsonArray,
    JsonLines,
    ServerSentEvents,
    WholeJson,
)
from anyserve_worker.pipelines.upstream.tool_calls import ToolCalls
from protos import contract

_COUNTS = ("prompt", "completion", "cached", "reasoning")


class _CallForm:
    """Finds tool calls and their parts."""

    def __init__(self, calls: Calls) -> None:
        self._path = JsonPath(calls.path)
        self._requirement = Requirement(calls.where)
        self._fields = [
            (JsonPath(path.removeprefix("/")) if path else None, path.startswith("/"))
            for path in (calls.key, calls.id, calls.name, calls.arguments)
        ]

    def pieces(self, root: Any) -> Iterator[list[Any]]:
        """Key, id, name and arguments of each piece; None: it has no such value."""
        if self._requirement.is_met(root):
            for call in self._path.values(root):
                yield [path and path.first(root if is_at_root else call) for path, is_at_root in self._fields]


class _CountForm:
    def __init__(self, counts: Counts) -> None:
        self._paths = {
            name: [JsonPath(path) for path in ([value] if isinstance(value, str) else value)]
            for name in _COUNTS
            if (value := getattr(counts, name))
        }

    def read(self, root: Any, counts: dict[str, dict[int, int]]) -> None:
        """Keeps the counts in the object: by name, and by the number of the path."""
        for name, paths in self._paths.items():
            for i, path in enumerate(paths):
                if (value := count(path.first(root))) is not None:
                    counts.setdefault(name, {})[i] = value


class AnswerForm:
    """An answer's form, checked once."""

    def __init__(self, answer: Answer, errors: ErrorForm, where: str) -> None:
        """`where`: name of the table for errors. Raises ValueError."""
        self.answer = answer
        self.errors = errors
        self.events = frozenset(answer.events)
        with named(f"{where}.event_field"):
            self.event_field = JsonPath(answer.event_field) if answer.event_field else None
        with named(f"{where}.text"):
            self.text = Locations(answer.text)
        with named(f"{where}.reasoning"):
            self.reasoning = Locations(answer.reasoning)
        with named(f"{where}.calls"):
            self.calls = [
                _CallForm(calls) for calls in (answer.calls if isinstance(answer.calls, list) else [answer.calls])
            ]
        with named(f"{where}.usage"):
            self.counts = _CountForm(answer.usage)
        with named(f"{where}.finish"):
            self.finish = Locations(answer.finish.path)
        with named(f"{where}.end"):
            self.end = Requirement(answer.end.where)

    def framing(self) -> Framing:
        match self.answer.framing:
            case "sse":
                return ServerSentEvents(self.answer.end.mark)
            case "ndjson":
                return JsonLines(self.answer.end.mark)
            case "json-array":
                return JsonArray()
            case _:
                return WholeJson()


class MappedReader:
    """Reads one answer."""

    def __init__(
        self, form: AnswerForm, prompt: str | None, *, calls_allowed: bool, scrub: Callable[[str], str]
    ) -> None:
        self._form = form
        self._framing = form.framing()
        self._calls_allowed = calls_allowed
        self._scrub = scrub
        self._calls = ToolCalls()
        self._counts: dict[str, dict[int, int]] = {}
        self._text = prompt if prompt and form.answer.has_prompt else ""
        """Text that the next text begins with: the prompt, and, if texts are cumulative, all text so far."""
        self._reason = ""
        self._is_ended = False
        self._has_content = False

    @property
    def is_finished(self) -> bool:
        return bool(self._reason)

    @property
    def is_complete(self) -> bool:
        return self._is_ended

    def push(self, data: bytes) -> Iterator[Event]:
        return self._read(self._framing.push(data))

    def finish(self) -> Iterator[Event]:
        if not self._is_ended:
            yield from self._read(self._framing.finish())
        form = self._form.answer
        is_whole = form.framing == "json" or form.end.eof
        if not self._is_ended and not self._reason and not is_whole:
            raise UpstreamFailed("The upstream's answer ended before it was complete.")
        if not self._has_content and not self._reason:
            raise UpstreamFailed("The upstream's answer has no text where it is expected.")
        reason = self._reason or form.finish.absent
        if not reason:
            raise UpstreamFailed("The upstream's answer has no finish reason.")
        yield from self._calls.finish()
        if (usage := self._usage()) is not None:
            yield usage
        yield Finish(contract.FINISH_TOOL_CALLS if self._calls and reason == contract.FINISH_STOP else reason)

    def _read(self, frames: Iterable[Frame]) -> Iterator[Event]:
        for frame in frames:
            if frame.is_end:
                self._is_ended = True
            else:
                yield from self._read_object(frame.value, frame.event)
            if self._is_ended:
                return

    def _read_object(self, value: Any, event: str) -> Iterator[Event]:
        form = self._form
        if form.errors.is_error(value):
            raise form.errors.in_answer(value, self._scrub)
        name = as_text(form.event_field.first(value)) if form.event_field else event
        if form.events and name not in form.events:
            return
        for text in form.reasoning.values(value):
            if text and isinstance(text, str):
                self._has_content = True
                yield Reasoning(text)
        for text in form.text.values(value):
            if not isinstance(text, str):
                raise UpstreamFailed("The upstream's answer has no text where it is expected.")
            self._has_content = True
            if text := self._added(text):
                yield Text(text)
        for calls in form.calls:
            for key, id, call_name, arguments in calls.pieces(value):
                if not self._calls_allowed:
                    raise UpstreamFailed("The upstream called a tool although the request allows none.")
                self._has_content = True
                yield from self._calls.push(key, id, call_name, arguments)
        form.counts.read(value, self._counts)
        self._read_reason(value)
        self._is_ended = bool(form.end) and form.end.is_met(value)

    def _added(self, text: str) -> str:
        if not self._text:
            pass
        elif text.startswith(self._text):
            text = text[len(self._text) :]
        else:
            raise UpstreamFailed("The upstream changed the beginning of its answer.")
        if self._form.answer.text_is == "cumulative":
            self._text += text
        else:
            self._text = ""
        return text

    def _read_reason(self, value: Any) -> None:
        finish = self._form.answer.finish
        for found in self._form.finish.values(value):
            reason = as_text(found)
            if reason in finish.ignore:
                continue
            if reason not in finish.map:
                raise UpstreamFailed(f"The upstream ended its answer with {self._scrub(reason)!r}.")
            self._reason = finish.map[reason]

    def _usage(self) -> Usage | None:
        sums = {name: sum(values.values()) for name, values in self._counts.items()}
        if "prompt" not in sums or "completion" not in sums:
            return None
        if max(sums.values()) > contract.INT32_MAX:
            return None
        return Usage(sums["prompt"], sums["completion"], sums.get("cached"), sums.get("reasoning"))
