"""gpt-oss's format, in which an answer is a series of messages.

PURE. Each message has a header with its channel, and for a call whom it is `to`:

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
"""How a grammar goes on behind a message that is not the last one."""
_PLAIN_HEADER = re.compile(r"[^<]+")
_MAX_HEADER = 256
_TO = re.compile(r"to=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>(\w+)")
_HEADER_MARKS = re.compile(r"<\|start\|>(?:assistant)?|<\|(?:channel|constrain|message)\|>")
_ROLE = "assistant"
_HEADER_BEGUN = re.compile(r"(?:<\|start\|>)?(?:assistant)?(?:.*<\|channel\|>| to=)", re.DOTALL)
_WHOLE_TO = re.compile(r"to=([^\s<]+)[\s<]")
_BETWEEN = "\n\n"
"""Put between two messages of one kind."""


class Harmony(ToolFormat):
    name = "harmony"
    special_tokens = True
    always = True
    reasons = True
    reasoning_span = ReasoningSpan("<|channel|>analysis", ("<|end|>", "<|call|>", "<|channel|>final"))
    markers = (_START, _CHANNEL, _MESSAGE)

    def begun_in(self, prompt: str) -> str:
        at = prompt.rfind(_START + _ROLE)
        return prompt[at:] if at >= 0 else ""

    def _read(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]:
        told: set[str] = set()
        found, first = "", True
        while True:
            reader.keep(found)
            header = yield from self._read_header(reader, found)
            if header is not None:
                reader.forget()
                found = yield from self._read_body(reader, out, header, told)
            else:
                text = reader.kept()
                if reader.ran_out and (not first or _HEADER_BEGUN.match(text)):
                    if receivers := _WHOLE_TO.findall(text):
                        out.expect(_called(receivers[-1]))
                    self._cut(reader, out)
                    return
                out.content(_HEADER_MARKS.sub("", text))
                found = yield from reader.until((*self.markers, *_ENDS), out.content)
            first = False
            if found in _ENDS:
                found = ""
            if not found and not (yield from reader.peek()):
                return

    def _read_header(self, reader: Reader, header: str) -> Steps[str | None]:
        """Reads up to where the message begins; None if that is no header."""
        if not header:
            header = yield from reader.literal(*_IN_HEADER, _MESSAGE, " to=")
        while header and not header.endswith(_MESSAGE):
            more = yield from reader.run(_PLAIN_HEADER, _MAX_HEADER)
            token = yield from reader.literal(*_IN_HEADER, _MESSAGE)
            if more is None or not token or len(header) > _MAX_HEADER:
                return None
            header += more + token
        return header or None

    def _read_body(self, reader: Reader, out: Output, header: str, told: set[str]) -> Steps[str]:
        """Reads up to a marker, which is returned."""
        channels, receivers = _CHANNEL_NAME.findall(header), _TO.findall(header)
        receiver = receivers[-1] if receivers else _ROLE
        if receiver != _ROLE:
            return (yield from self._read_arguments(reader, out, receiver))
        kind = "analysis" if channels and channels[-1] == "analysis" else "final"
        write: Callable[[str], None] = out.reasoning if kind == "analysis" else out.content
        first = True

        def emit(text: str) -> None:
            nonlocal first
            if first and kind in told:
                write(_BETWEEN)
            first = False
            told.add(kind)
            write(text)

        return (yield from reader.until((*self.markers, *_ENDS), emit))

    def _read_arguments(self, reader: Reader, out: Output, receiver: str) -> Steps[str]:
        """Up to the next marker nothing is content, not even what is behind the arguments."""
        out.begin(_called(receiver))
        ends = (*self.markers, *_ENDS)
        yield from reader.spaces()
        none = (*ends, "null") if receiver != _called(receiver) else ends
        if (yield from reader.next_of(*none)):
            out.arguments("{}")
        elif (yield from reader.peek()) == "{":
            yield from json_text.value(reader, out.arguments)
        elif not reader.ran_out:
            # For a tool that takes no JSON but text, such as python.
            out.arguments('"')
            found = yield from reader.until(
                ends, lambda text: out.arguments(json_text.in_string(text)), drop_beginning=True
            )
            if found:
                out.arguments('"')
            return found
        return (yield from reader.until(ends, ignore))

    # ---- Grammar: always one call, since <|call|> ends the answer

    def _calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        thought = f'{_CHANNEL} "analysis" {_MESSAGE} {self._text(rules)} {_NEXT}'
        return f"({thought})? {self._behind_marker(rules, tools, parallel)}"

    def _behind_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return rules.one_of([self._call(rules, tool) for tool in tools])

    def _call(self, rules: Rules, tool: Tool) -> str:
        to = f" to=functions.{tool.function.name}"
        in_front = f'{literal(to)} {_CHANNEL} "commentary json"'
        behind = f'{_CHANNEL} {literal(f"commentary{to} ")} {_CONSTRAIN} "json"'
        return f"({in_front} | {behind}) {_MESSAGE} {rules.arguments(tool)}"

    def _text(self, rules: Rules) -> str:
        # The parser knows the markers by their text alone.
        return rules.terminal(free_text((*self.markers, *_ENDS)))

    def _text_or_calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool, not_first: Sequence[str] = ()) -> str:
        text = self._text(rules)
        told = f'{_CHANNEL} ("analysis" | "commentary") {_MESSAGE} {text} {_NEXT}'
        final = f'{_CHANNEL} "final" {_MESSAGE} {text}'
        return rules.rule(f"({told})* ({final} | {self._behind_marker(rules, tools, parallel)})")


def _called(receiver: str) -> str:
    return receiver.removeprefix("functions.") or receiver


HARMONY = Harmony()
