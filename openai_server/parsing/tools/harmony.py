"""gpt-oss's format, in which an answer is a series of messages.

PURE. Each message has a header with its channel and, for a call, its receiver after `to=`:

    <|channel|>analysis<|message|>reasoning<|end|>
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>
    <|start|>assistant<|channel|>final<|message|>content<|return|>

The prompt ends within the first header. Text without a header is content.
"""

import re
from collections.abc import Callable, Sequence

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.reasoning import ReasoningSpan
from openai_server.parsing.tools.format import ToolFormat, ignore
from openai_server.parsing.tools.grammar import Rules, free_text, literal

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_CONSTRAIN = "<|constrain|>"
_IN_HEADER = (_START, _CHANNEL, _CONSTRAIN)
_NEXT = '<|end|> <|start|> "assistant"'
"""Grammar of the text between a message and the next one."""
_PLAIN_HEADER = re.compile(r"[^<]+")
_MAX_HEADER = 256
_TO = re.compile(r"to=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>(\w+)")
_HEADER_MARKS = re.compile(r"<\|start\|>(?:assistant)?|<\|(?:channel|constrain|message)\|>")
_ROLE = "assistant"
_HEADER_BEGUN = re.compile(r"(?:<\|start\|>)?(?:assistant)?(?:.*<\|channel\|>| to=)", re.DOTALL)
_WHOLE_TO = re.compile(r"to=([^\s<]+)[\s<]")
_BETWEEN = "\n\n"
"""Inserted between two messages of the same kind."""


class Harmony(ToolFormat):
    name = "harmony"
    special_tokens = True
    parses_all_answers = True
    parses_reasoning = True
    reasoning_span = ReasoningSpan("<|channel|>analysis<|message|>", ("<|end|>", "<|call|>", "<|channel|>final"))
    markers = (_START, _CHANNEL, _MESSAGE)

    def prompt_tail(self, prompt: str) -> str:
        at = prompt.rfind(_START + _ROLE)
        return prompt[at:] if at >= 0 else ""

    def _read(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]:
        written_kinds: set[str] = set()
        token, first = "", True
        while True:
            reader.keep(token)
            header = yield from self._read_header(reader, token)
            if header is not None:
                reader.forget()
                token = yield from self._read_body(reader, out, header, written_kinds)
            else:
                text = reader.take_kept()
                if reader.ran_out and (not first or _HEADER_BEGUN.match(text)):
                    if receivers := _WHOLE_TO.findall(text):
                        out.expect(_function_name(receivers[-1]))
                    self._cut(reader, out)
                    return
                out.content(_HEADER_MARKS.sub("", text))
                token = yield from reader.until((*self.markers, *_ENDS), out.content)
            first = False
            if token in _ENDS:
                token = ""
            if not token and not (yield from reader.peek()):
                return

    def _read_header(self, reader: Reader, header: str) -> Steps[str | None]:
        """Reads up to the beginning of the message's text; None if the text is not a header."""
        if not header:
            header = yield from reader.literal(*_IN_HEADER, _MESSAGE, " to=")
        while header and not header.endswith(_MESSAGE):
            text = yield from reader.run(_PLAIN_HEADER, _MAX_HEADER)
            token = yield from reader.literal(*_IN_HEADER, _MESSAGE)
            if text is None or not token or len(header) > _MAX_HEADER:
                return None
            header += text + token
        return header or None

    def _read_body(self, reader: Reader, out: Output, header: str, written_kinds: set[str]) -> Steps[str]:
        """Reads up to the next marker, and returns it. `written_kinds` are the kinds of the messages so far."""
        channels, receivers = _CHANNEL_NAME.findall(header), _TO.findall(header)
        receiver = receivers[-1] if receivers else _ROLE
        if receiver != _ROLE:
            return (yield from self._read_arguments(reader, out, receiver))
        kind = "analysis" if channels and channels[-1] == "analysis" else "final"
        write: Callable[[str], None] = out.reasoning if kind == "analysis" else out.content
        first = True

        def emit(text: str) -> None:
            nonlocal first
            if first and kind in written_kinds:
                write(_BETWEEN)
            first = False
            written_kinds.add(kind)
            write(text)

        return (yield from reader.until((*self.markers, *_ENDS), emit))

    def _read_arguments(self, reader: Reader, out: Output, receiver: str) -> Steps[str]:
        """Reads up to the next marker. Text after the arguments is dropped."""
        out.begin(_function_name(receiver))
        ends = (*self.markers, *_ENDS)
        yield from reader.spaces()
        no_arguments = (*ends, "null") if receiver != _function_name(receiver) else ends
        if (yield from reader.next_of(*no_arguments)):
            out.arguments("{}")
        elif (yield from reader.peek()) == "{":
            yield from json_text.value(reader, out.arguments)
        elif not reader.ran_out:
            # The tool takes text instead of JSON, such as python.
            out.arguments('"')
            end = yield from reader.until(
                ends, lambda text: out.arguments(json_text.in_string(text)), drop_beginning=True
            )
            if end:
                out.arguments('"')
            return end
        return (yield from reader.until(ends, ignore))

    # ---- Grammar: always exactly one call, since <|call|> ends the answer

    def _calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        thought = f'{_CHANNEL} "analysis" {_MESSAGE} {self._text(rules)} {_NEXT}'
        return f"({thought})? {self._calls_after_marker(rules, tools, parallel)}"

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return rules.one_of([self._call(rules, tool) for tool in tools])

    def _call(self, rules: Rules, tool: Tool) -> str:
        to = f" to=functions.{tool.function.name}"
        before_channel = f'{literal(to)} {_CHANNEL} "commentary json"'
        after_channel = f'{_CHANNEL} {literal(f"commentary{to} ")} {_CONSTRAIN} "json"'
        return f"({before_channel} | {after_channel}) {_MESSAGE} {rules.arguments(tool)}"

    def _text(self, rules: Rules) -> str:
        # The parser recognizes the markers by their text alone.
        return rules.terminal(free_text((*self.markers, *_ENDS)))

    def _text_or_calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool, not_first: Sequence[str] = ()) -> str:
        return self._answer(rules, f"| {self._calls_after_marker(rules, tools, parallel)}")

    def _text_only(self, rules: Rules, tools: Sequence[Tool], not_first: Sequence[str] = ()) -> str:
        return self._answer(rules, "")

    def _answer(self, rules: Rules, calls: str) -> str:
        text = self._text(rules)
        preamble = f'{_CHANNEL} ("analysis" | "commentary") {_MESSAGE} {text} {_NEXT}'
        return rules.rule(f'({preamble})* ({_CHANNEL} "final" {_MESSAGE} {text} {calls})')


def _function_name(receiver: str) -> str:
    return receiver.removeprefix("functions.") or receiver


HARMONY = Harmony()
