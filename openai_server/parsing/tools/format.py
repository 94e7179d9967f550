"""What every format of tool calls has: a parser, and grammars that hold a model to it.

PURE. A format is a module with a subclass of `ToolFormat`: its markers, how it reads a call behind them, and how its
grammar writes one.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from openai_server.core import guide_parts
from openai_server.core.tools import Tool
from openai_server.parsing.parser import Parser
from openai_server.parsing.reader import Output, Reader, StepParser, Steps
from openai_server.parsing.reasoning import ReasoningSpan, ReasoningTags
from openai_server.parsing.tools.grammar import ANY, GAP, SPACES, Rules, free_text, is_control, literal, marker

_NAME = re.compile(r"[a-zA-Z0-9_.-]+")
_MAX_NAME = 128
_STRAY = re.compile(r"[\s}\]]+")
_MAX_STRAY = 64


class ToolFormat(ABC):
    name: str
    special_tokens: bool = False
    """Its markers are control tokens: the worker has to be asked to write such tokens into the text."""
    in_template: ClassVar[bool] = True
    """The template tells the model of the tools. False: `generic.as_plain` has to."""
    always: ClassVar[bool] = False
    """Answers without calls are in this format as well, so they need its parser even if there are no tools."""
    reasons: ClassVar[bool] = False
    """Its parser takes out the reasoning."""
    begun_by_prompt: ClassVar[bool] = False
    """The marker at the beginning of an answer is the end of the prompt: it is no part of the text."""
    reasoning_span: ClassVar[ReasoningSpan | None] = None
    """Of a format whose parser does."""

    markers: tuple[str, ...]
    """Where a call may begin. A grammar begins calls with the first one."""
    dropped: tuple[str, ...] = ()
    """Control tokens that say nothing where they stand."""
    section: str = ""
    """A control token in front of the first call."""

    @property
    def closers(self) -> tuple[str, ...]:
        """What may stand behind a call, or behind all of them, beside what is `dropped`."""
        return ()

    # ---- Parsing

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return StepParser(partial(self._read, tools=tools))

    def begun_in(self, prompt: str) -> str:
        """The end of the prompt that the parser has to know, as if the model had written it."""
        return ""

    def _read(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]:
        return self._read_on(reader, out, tools)

    def _read_on(self, reader: Reader, out: Output, tools: Sequence[Tool], *, broken: bool = False) -> Steps[None]:
        """`broken`: a call has gone wrong, up to whose end there is no content."""
        markers = (*self.markers, *self.dropped)
        ends = [end for end in self.closers if not any(end in marker for marker in markers)]
        begun = broken or out.n_calls > 0
        while True:
            if broken:
                found = yield from reader.until((*markers, *ends), ignore)
            else:
                found = yield from reader.until(markers, out.content, drop_beginning=begun)
            broken = False
            if not found:
                if begun and not out.n_calls:
                    out.cut()
                return
            if found not in self.markers:
                begun = begun or found == self.section
                continue
            n_calls = out.n_calls
            reader.keep("" if self.begun_by_prompt and out.is_empty else found)
            whole = yield from self._read_call(reader, out, tools, found)
            if reader.ran_out:
                self._cut(reader, out)
                return
            out.expect_none()
            if out.n_calls == n_calls:
                out.content(reader.kept())
                continue
            begun, broken = True, not whole
            if whole:
                yield from self._finish(reader)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], found: str) -> Steps[bool]:
        """Reads what is behind the marker `found`; whether that was whole. If no call has begun it is content."""
        raise NotImplementedError

    def _finish(self, reader: Reader) -> Steps[None]:
        """Reads what is left of a whole call, with the brackets that a model has closed too often."""
        reader.forget()
        while (yield from reader.run(_STRAY, _MAX_STRAY)) is None:
            pass
        if self.closers:
            yield from reader.literal(*self.closers)
        if reader.ran_out:
            reader.rest()

    def _cut(self, reader: Reader, out: Output) -> None:
        """The text has ended within a call, which begins if its name is known. Nothing of it is content."""
        reader.forget()
        reader.rest()
        out.cut()

    # ---- Grammars. `thoughts` are the markers of reasoning that may come first, `thinking` says that it has begun.

    def grammar(
        self,
        tools: Sequence[Tool],
        *,
        parallel: bool,
        function_name: str | None = None,
        thoughts: ReasoningTags | None = None,
        thinking: bool = False,
    ) -> str:
        """Exactly one call (or several, if `parallel`) of these tools, or of the one that is `named`."""
        rules = Rules()
        offered = [tool for tool in tools if function_name in (None, tool.function.name)]
        calls = self._calls(rules, offered, parallel)
        if thoughts is None:
            return rules.text(calls)
        thought = _thought(rules, thoughts, thinking, "")
        return rules.text(f"{thought} {calls}" if thinking else f"{GAP} ({thought})? {calls}")

    def guided_grammar(
        self,
        tools: Sequence[Tool],
        *,
        body: str,
        parallel: bool,
        thoughts: ReasoningTags | None = None,
        thinking: bool = False,
    ) -> str:
        """Content that matches `body`, in Lark, or such calls as `grammar` has."""
        rules = Rules()
        answer = rules.rule(body, guide_parts.GUIDE)
        if tools:
            answer = f"({answer} | {self._calls(rules, tools, parallel)})"
        if thoughts is None:
            return rules.text(answer)
        thought = _thought(rules, thoughts, thinking, "")
        return rules.text(f"{thought} {GAP} {answer}" if thinking else f"({thought} {GAP})? {answer}")

    def strict_grammar(
        self,
        tools: Sequence[Tool],
        *,
        parallel: bool = True,
        thoughts: ReasoningTags | None = None,
        thinking: bool = False,
    ) -> str:
        """Free text, then no call, or such calls as `grammar` has. Free text can't hold a call of another kind."""
        rules = Rules()
        behind_thought = self._text_or_calls(rules, tools, parallel)
        if thoughts is None:
            return rules.text(behind_thought)
        thought = _thought(rules, thoughts, thinking, SPACES)
        if thinking:
            return rules.text(f"{thought} {behind_thought}")
        if is_control(thoughts.begin):
            return rules.text(f"({thought})? {behind_thought}")
        # An answer that begins like a thought is one: the rules for answers don't apply within it.
        no_thought = self._text_or_calls(rules, tools, parallel, [thoughts.begin])
        return rules.text(f"{no_thought} | {thought} {behind_thought}")

    def _calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return f"{GAP} {self._opening()} {self._behind_marker(rules, tools, parallel)}"

    def _opening(self) -> str:
        return f"{marker(self.section)} {marker(self.markers[0])}" if self.section else marker(self.markers[0])

    def _text_or_calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool, not_first: Sequence[str] = ()) -> str:
        """The text does not begin with any of `not_first`."""
        calls = self._behind_marker(rules, tools, parallel)
        text = rules.terminal(free_text(self.markers, not_first))
        if is_control(self.markers[0]):
            return rules.rule(f"{text} ({self._opening()} {calls})?")
        # Ends at the marker, wherever that comes; no other marker may be in the text.
        begun = rules.shortest(f"{free_text(self.markers[1:], not_first)} {literal(self.markers[0])}")
        return rules.rule(f"{text} | {begun} {calls}")

    @abstractmethod
    def _behind_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        """Calls, as they go on behind the first marker."""


def ignore(text: str) -> None:
    pass


def read_name(reader: Reader) -> Steps[str]:
    """Reads the name of a function, "" if there is none."""
    return (yield from reader.run(_NAME, _MAX_NAME)) or ""


def _thought(rules: Rules, thoughts: ReasoningTags, thinking: bool, spaces: str) -> str:
    """A thought with its markers; `spaces` may be in front of it."""
    if is_control(thoughts.end):
        text = f"{rules.terminal(free_text([thoughts.end]))} {marker(thoughts.end)}"
        return rules.rule(text if thinking else f"{spaces} {marker(thoughts.begin)} {text}")
    begin = "" if thinking else f"{spaces} {literal(thoughts.begin)}"
    return rules.shortest(f"{begin} {ANY} {literal(thoughts.end)}")
