"""Keeps the fields of a request plain text in the prompt, with marks that are added to them before the rendering.

PURE. A mark is one character that doesn't occur in the request. It is inserted into all text that could be read as
markup, so that the template treats this as ordinary text. After the rendering all marks are removed, and each token
that had a mark inside becomes a plain span of the prompt. A request without such text is left unchanged.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, TypeVar

import msgspec
import orjson
from msgspec import Struct

from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import AssistantMessage, TextPart
from openai_server.core.turn import Turn
from openai_server.parsing.reasoning import ReasoningTags
from openai_server.prompting.chat_prompt import ChatPrompt, Spans
from openai_server.prompting.markup import Markup
from protos.literals import occurrences

M = TypeVar("M")
T = TypeVar("T")
V = TypeVar("V")

MAX_MARKS = 1 << 18
"""Maximum number of marks in one request: more tokens than any model accepts."""
MAX_SEPARATE_SPANS = 1 << 14
"""Number of spans above which neighbours without markup between them are joined."""
_MARK_RANGES = (range(0xFDD0, 0xFDF0), range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))
"""Characters that ordinary text doesn't use: noncharacters and private-use characters."""
_ESCAPES = re.compile(r"\\u([0-9a-fA-F]{4})(?:\\u([dD][c-fC-F][0-9a-fA-F]{2}))?|\\U([0-9a-fA-F]{8})")


class PlainFields:
    """The fields of one request. Call `mark`, render the result, then call `prompt`."""

    def __init__(self, markup: Markup, thoughts: ReasoningTags | None, source: str) -> None:
        """`thoughts` are the tags of reasoning that an assistant's content may begin with."""
        self._markup = markup
        self._thoughts = thoughts
        self._source = source
        self._mark = ""
        self._n_marks = 0

    def mark(self, messages: M, tools: T, variables: V) -> tuple[M, T, V]:
        """Returns the arguments, which are Structs or a template's objects, with marks where needed.

        Raises InvalidRequest if no character is left for a mark, or if too many marks are needed.
        """
        try:
            if any(map(self._needs_mark, (messages, tools, variables))):
                self._choose_mark(messages, tools, variables)
                messages, tools, variables = _Walk(self._marked, self._thoughts).all(messages, tools, variables)
            return messages, tools, variables
        except RecursionError:
            raise InvalidRequest("The messages or the tools nest too deeply.", param="messages") from None

    def prompt(self, rendered: str) -> ChatPrompt:
        if not self._mark:
            return ChatPrompt(rendered, (), rendered)
        marked = _unescaped(rendered, self._mark)
        parts = marked.split(self._mark)
        text = "".join(parts)
        marks, position = [], 0
        for part in parts[:-1]:
            position += len(part)
            marks.append(position)
        return ChatPrompt(text, _in_bytes(text, self._spans(text, marks)), marked)

    def clean(self, text: str) -> str:
        """The text without marks, for the client."""
        return _unescaped(text, self._mark).replace(self._mark, "") if self._mark else text

    # ---- Marks and spans

    def _choose_mark(self, *values: Any) -> None:
        texts = [self._source]

        def collect(text: str, _: Spans) -> str:
            texts.append(text)
            return text

        _Walk(collect, self._thoughts).all(*values)
        self._mark = _unused(texts)

    def _needs_mark(self, value: Any) -> bool:
        """Whether any string in the value needs a mark. Most requests have no such string."""
        kind = type(value)
        if kind is str:
            return next(self._markup.places(value), None) is not None
        if kind is dict:
            return any(
                (key not in _COMMON_KEYS and self._needs_mark(key)) or self._needs_mark(item)
                for key, item in value.items()
            )
        if kind is list or kind is tuple:
            return any(map(self._needs_mark, value))
        if isinstance(value, Struct):
            return any(self._needs_mark(getattr(value, name)) for name in value.__struct_fields__)
        return False

    def _places(self, text: str, markers: Spans = ()) -> Iterator[int]:
        if not markers:
            yield from self._markup.places(text)
            return
        start = 0
        for begin, end in (*markers, (len(text), len(text))):
            for place in self._markup.places(text[start:begin]):
                yield start + place
            start = end

    def _marked(self, text: str, markers: Spans = ()) -> str:
        places = set(islice(self._places(text, markers), MAX_MARKS + 1))
        self._n_marks += len(places)
        if self._n_marks > MAX_MARKS:
            raise InvalidRequest(
                f"The request contains the model's markup in more than {MAX_MARKS} places.", param="messages"
            )
        parts, start = [], 0
        for place in sorted(places):
            parts.append(text[start:place])
            start = place
        return self._mark.join((*parts, text[start:]))

    def _spans(self, text: str, marks: list[int]) -> list[tuple[int, int]]:
        """The spans of all tokens with a mark inside, minus overlaps with the template's tokens, which have no
        marks."""
        longest = self._markup.longest
        spans: list[tuple[int, int]] = []
        template_spans: list[tuple[int, int]] = []
        at = 0
        while at < len(marks):
            begin, end = marks[at] - longest, marks[at] + longest
            while at < len(marks) and marks[at] - longest <= end:
                end = marks[at] + longest
                at += 1
            for match in occurrences(self._markup.pattern, text, max(0, begin), min(len(text), end)):
                first = bisect_right(marks, match.start() - (match.end() - match.start() == 1))
                inside = first < len(marks) and marks[first] < match.end()
                (spans if inside else template_spans).append(match.span())
        return _joined(list(_without_overlaps(spans, template_spans)), text, self._markup)


def _without_overlaps(
    spans: Iterable[tuple[int, int]], template_spans: list[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    starts = [start for start, _ in template_spans]
    for start, end in spans:
        at = bisect_right(starts, start) - 1
        for other, other_end in template_spans[max(at, 0) :]:
            if other >= end:
                break
            if other <= start < other_end:
                start = other_end
            elif start < other < end:
                end = other
        if start < end:
            yield start, end


def _joined(spans: list[tuple[int, int]], text: str, markup: Markup) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    join_neighbours = len(spans) > MAX_SEPARATE_SPANS
    for start, end in spans:
        if joined and (
            start <= joined[-1][1] or (join_neighbours and not markup.pattern.search(text, joined[-1][1], start))
        ):
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _in_bytes(text: str, spans: Spans) -> Spans:
    if text.isascii():
        return spans
    in_bytes, position, size = [], 0, 0
    for edge in chain.from_iterable(spans):
        size += len(text[position:edge].encode())
        position = edge
        in_bytes.append(size)
    return list(zip(in_bytes[::2], in_bytes[1::2], strict=True))


# ---- The mark


def _unused(texts: Iterable[str]) -> str:
    present: set[str] = set()
    for text in texts:
        present.update(text)
        if "\\" in text:
            for short, low, long in _ESCAPES.findall(text):
                code = int(long or short, 16)
                if low and 0xD800 <= code < 0xDC00:
                    code = 0x10000 + (code - 0xD800) * 0x400 + int(low, 16) - 0xDC00
                if code <= 0x10FFFF:
                    present.add(chr(code))
    for code in chain.from_iterable(_MARK_RANGES):
        if chr(code) not in present:
            return chr(code)
    raise InvalidRequest(
        "The messages use all private-use characters of Unicode; at least one must be unused.", param="messages"
    )


def _unescaped(text: str, mark: str) -> str:
    """The text with marks in place of the escapes that the template wrote for them in JSON or Python."""
    code = ord(mark)
    if code < 0x10000:
        escapes = f"u{code:04x}"
    else:
        high, low = divmod(code - 0x10000, 0x400)
        escapes = f"(?:u{0xD800 + high:04x}\\\\+u{0xDC00 + low:04x}|U{code:08x})"
    if "\\" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        # Odd number of backslashes: the last one begins the escape. Even number: the escape was escaped again.
        n = len(match[1])
        return "\\" * (n - 1 if n % 2 else n - 2) + mark

    return re.sub(rf"(\\+){escapes}", replace, text)


# ---- The fields

_CONSTANT_KEYS = frozenset({"role", "type"})
"""Keys of messages and tools whose values the client can't choose."""
_COMMON_KEYS = frozenset(
    {"role", "content", "name", "reasoning_content", "reasoning", "thinking", "tool_calls", "function"}
)
"""Keys of messages that the client doesn't choose and that are in nearly all messages. They aren't checked."""
_CLIENT_OBJECTS = frozenset({"arguments", "parameters"})
"""Keys of objects whose keys the client chooses."""


class _Walk:
    """Walks through messages, tools and variables, and replaces each string with `change(string, reasoning tags)`."""

    def __init__(self, change: Callable[[str, Spans], str], thoughts: ReasoningTags | None) -> None:
        self._change = change
        self._thoughts = thoughts

    def all(self, messages: Any, tools: Any, variables: Any) -> Any:
        changed = {name: self._value(value, keys=True) for name, value in variables.items()}
        return self._value(messages), self._value(tools), changed

    def _value(self, value: Any, *, keys: bool = False) -> Any:
        """`keys`: whether to change the keys of dicts too, since the client chooses them."""
        if isinstance(value, str):
            return self._change(value, ())
        if isinstance(value, list | tuple):
            return [self._value(item, keys=keys) for item in value]
        if isinstance(value, Struct):
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            own = isinstance(value, AssistantMessage)
            return msgspec.structs.replace(value, **self._fields(fields, own=own))
        if not isinstance(value, dict):
            return value
        if keys:
            return {self._change(key, ()): self._value(item, keys=True) for key, item in value.items()}
        return self._fields(value, own=value.get("role") == "assistant")

    def _fields(self, fields: dict[str, Any], *, own: bool) -> dict[str, Any]:
        """`own`: whether the fields are those of an assistant's message."""
        changed = {}
        for name, value in fields.items():
            if name in _CONSTANT_KEYS:
                changed[name] = value
            elif name == "content" and own and self._thoughts and not fields.get("reasoning_content"):
                changed[name] = self._answer(value, self._thoughts)
            else:
                changed[name] = self._value(value, keys=name in _CLIENT_OBJECTS)
        return changed

    def _answer(self, content: Any, thoughts: ReasoningTags) -> Any:
        """The assistant's content. It may begin with reasoning, whose tags remain markup."""
        if isinstance(content, str):
            return self._change(content, reasoning_markers([content], thoughts)[0])
        parts = content or []
        texts = [part["text"] if isinstance(part, dict) else part.text for part in parts]
        changed = [
            self._change(text, spans) for text, spans in zip(texts, reasoning_markers(texts, thoughts), strict=True)
        ]
        return content and [
            part | {"text": text} if isinstance(part, dict) else TextPart(text)
            for part, text in zip(parts, changed, strict=True)
        ]


def reasoning_markers(texts: Sequence[str], thoughts: ReasoningTags) -> list[list[tuple[int, int]]]:
    """The spans of the reasoning tags at the beginning of an answer, for each of its parts."""
    places: list[list[tuple[int, int]]] = [[] for _ in texts]
    start = 0
    if texts and (opened := re.compile(rf"\s*({re.escape(thoughts.begin)})").match(texts[0])):
        places[0].append(opened.span(1))
        start = opened.end()
    for i, text in enumerate(texts):
        if (end := text.find(thoughts.end, start)) >= 0:
            places[i].append((end, end + len(thoughts.end)))
            if thoughts.answer:
                _add_answer(texts, places, i, thoughts.answer)
            break
        start = 0
    return places


def _add_answer(texts: Sequence[str], places: list[list[tuple[int, int]]], i: int, answer: tuple[str, str]) -> None:
    """Adds the spans of the tags around the text after the reasoning, which ends in part `i`."""
    begin, end = answer
    after = places[i][-1][1]
    if begin and (opened := re.compile(rf"\s*({re.escape(begin)})").match(texts[i], after)):
        places[i].append(opened.span(1))
        after = opened.end()
    last = len(texts[-1].rstrip())
    if texts[-1].endswith(end, after if i == len(texts) - 1 else 0, last):
        places[-1].append((last - len(end), last))


# ---- The field to report


def field_with(turn: Turn, markup: Markup) -> str:
    """The path of the first field that contains markup; `messages` if only several fields together form it."""
    is_legacy = turn.name("tools") == "functions"
    tools = [tool.function for tool in turn.tools] if is_legacy else turn.tools
    for path, text in chain(
        _texts(turn.messages, turn.name("messages"), turn.message_fields),
        _texts(tools, turn.name("tools"), turn.tool_fields),
        _paths(turn.template.chat_template_kwargs, turn.name("chat_template_kwargs")),
    ):
        if markup.is_in(text):
            return path
    return turn.name("messages")


def _texts(items: Sequence[Any], name: str, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The texts in `items`, each with its path, or with the item's path where the request has `fields` of its own."""
    if not fields:
        yield from _paths(items, name)
    for field, item in zip(fields, items, strict=bool(fields)):
        for _, text in _paths(item, ""):
            yield field, text


def _paths(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
        if path.endswith(".arguments"):
            with suppress(orjson.JSONDecodeError):
                for _, text in _paths(orjson.loads(value), ""):
                    yield path, text
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _paths(item, f"{path}[{i}]")
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _paths(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield path, key
            yield from _paths(item, f"{path}.{key}")
