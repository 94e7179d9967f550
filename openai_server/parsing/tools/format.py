"""The base of every format of tool calls: a parser, and grammars that restrict a model to the format.

PURE. A format is a subclass of `ToolFormat`. It defines the markers, how to parse a call after them, and the grammar of
a call.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

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


ArgumentStyle = Literal["object", "values", "texts"]
"""How a grammar writes arguments: as one JSON object, as a JSON value each, or as a text each (other types as JSON)."""


class ToolFormat(ABC):
    name: str
    arguments: ArgumentStyle = "object"
    special_tokens: bool = False
    """Whether the markers are control tokens, so that the backend must include such tokens in the text."""
    in_template: ClassVar[bool] = True
    """Whether the template describes the tools to the model. If not, `generic.as_plain` does."""
    parses_all_answers: ClassVar[bool] = False
    """Whether answers without calls are in this format too, so that they need its parser even without tools."""
    parses_reasoning: ClassVar[bool] = False
    """Whether the format's parser also extracts the reasoning."""
    starts_in_prompt: ClassVar[bool] = False
    """Whether the prompt ends with the first marker, so that the marker is not part of the text."""
    reasoning_span: ClassVar[ReasoningSpan | None] = None
    """The reasoning of a format with `parses_reasoning`; None otherwise."""

    markers: tuple[str, ...]
    """Texts that a call may begin with. A grammar uses the first one."""
    ignored_markers: tuple[str, ...] = ()
    """Control tokens that the parser drops."""
    section: str = ""
    """A control token before the first call; empty if the format has none."""

    @property
    def closers(self) -> tuple[str, ...]:
        """Texts that may follow a call, or all calls, in addition to `ignored_markers`."""
        return ()

    # ---- Parsing

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return StepParser(partial(self._read, tools=tools))

    def prompt_tail(self, prompt: str) -> str:
        """The end of the prompt that the parser must read before the answer; empty if there is none."""
        return ""

    def _read(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]:
        return self._read_on(reader, out, tools)

    def _read_on(self, reader: Reader, out: Output, tools: Sequence[Tool], *, broken: bool = False) -> Steps[None]:
        """Reads content and calls to the end. `broken`: a malformed call precedes; the text up to its end is
        dropped."""
        markers = (*self.markers, *self.ignored_markers)
        ends = [end for end in self.closers if not any(end in marker for marker in markers)]
        begun = broken or out.n_calls > 0
        while True:
            if broken:
                token = yield from reader.until((*markers, *ends), ignore)
            else:
                token = yield from reader.until(markers, out.content, drop_beginning=begun)
            broken = False
            if not token:
                if begun and not out.n_calls:
                    out.cut()
                return
            if token not in self.markers:
                begun = begun or token == self.section
                continue
            n_calls = out.n_calls
            reader.keep("" if self.starts_in_prompt and out.is_empty else token)
            complete = yield from self._read_call(reader, out, tools, token)
            if reader.ran_out:
                self._cut(reader, out)
                return
            out.expect_none()
            if out.n_calls == n_calls:
                out.content(reader.take_kept())
                continue
            begun, broken = True, not complete
            if complete:
                yield from self._finish(reader)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        """Reads a call after `opening`, one of `markers`. Returns whether it was complete. If no call has begun, the
        text is content."""
        raise NotImplementedError

    def _finish(self, reader: Reader) -> Steps[None]:
        """Reads the rest after a complete call, including surplus closing brackets."""
        reader.forget()
        while (yield from reader.run(_STRAY, _MAX_STRAY)) is None:
            pass
        if self.closers:
            yield from reader.literal(*self.closers)
        if reader.ran_out:
            reader.rest()

    def _cut(self, reader: Reader, out: Output) -> None:
        """Called if the text ends within a call. The call begins if its name is complete; its text is never content."""
        reader.forget()
        reader.rest()
        out.cut()

    # ---- Grammars. `thoughts`: tags of reasoning that may come first; `thinking`: the prompt opens the reasoning.

    def grammar(
        self,
        tools: Sequence[Tool],
        *,
        parallel: bool,
        function_name: str | None = None,
        thoughts: ReasoningTags | None = None,
        thinking: bool = False,
    ) -> str:
        """The grammar of one call (or several, if `parallel`) of these tools, or of `function_name` alone."""
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
        """The grammar of content that matches `body`, in Lark, or of calls as in `grammar`."""
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
        """The grammar of free text, optionally followed by calls as in `grammar`. The free text can't contain other
        calls."""
        rules = Rules()

        def answer(not_first: Sequence[str]) -> str:
            return self._text_or_calls(rules, tools, parallel, not_first)

        return _after_thought(rules, answer, thoughts, thinking)

    def text_grammar(
        self, tools: Sequence[Tool], *, thoughts: ReasoningTags | None = None, thinking: bool = False
    ) -> str:
        """The grammar of free text that contains no call. `tools` are those that the text may not call."""
        rules = Rules()

        def answer(not_first: Sequence[str]) -> str:
            return self._text_only(rules, tools, not_first)

        return _after_thought(rules, answer, thoughts, thinking)

    def _calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return f"{GAP} {self._opening()} {self._calls_after_marker(rules, tools, parallel)}"

    def _opening(self) -> str:
        return f"{marker(self.section)} {marker(self.markers[0])}" if self.section else marker(self.markers[0])

    def _text_or_calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool, not_first: Sequence[str] = ()) -> str:
        """Free text that doesn't begin with any of `not_first`, optionally followed by calls."""
        calls = self._calls_after_marker(rules, tools, parallel)
        text = self._text_only(rules, tools, not_first)
        if is_control(self.markers[0]):
            return rules.rule(f"{text} ({self._opening()} {calls})?")
        # Ends at the first occurrence of the marker; the text can't contain any other marker.
        text_and_marker = rules.shortest(f"{free_text(self.markers[1:], not_first)} {literal(self.markers[0])}")
        return rules.rule(f"{text} | {text_and_marker} {calls}")

    def _text_only(self, rules: Rules, tools: Sequence[Tool], not_first: Sequence[str] = ()) -> str:
        """Free text without calls that doesn't begin with any of `not_first`."""
        return rules.terminal(free_text(self.markers, not_first))

    @abstractmethod
    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        """The grammar of calls, after the first marker."""


def ignore(text: str) -> None:
    pass


def read_name(reader: Reader) -> Steps[str]:
    """Reads and returns the name of a function; "" if there is none."""
    return (yield from reader.run(_NAME, _MAX_NAME)) or ""


def _after_thought(
    rules: Rules, answer: Callable[[Sequence[str]], str], thoughts: ReasoningTags | None, thinking: bool
) -> str:
    """The grammar of optional reasoning and an answer. `answer` adds the rules of one that doesn't begin with some
    texts."""
    after_thought = answer(())
    if thoughts is None:
        return rules.text(after_thought)
    thought = _thought(rules, thoughts, thinking, SPACES)
    if thinking:
        return rules.text(f"{thought} {after_thought}")
    if is_control(thoughts.begin):
        return rules.text(f"({thought})? {after_thought}")
    # An answer that begins with the tag is reasoning, so the rules for answers must exclude that tag.
    return rules.text(f"{answer([thoughts.begin])} | {thought} {after_thought}")


def _thought(rules: Rules, thoughts: ReasoningTags, thinking: bool, spaces: str) -> str:
    """The grammar of reasoning with its tags, after `spaces`."""
    if is_control(thoughts.end):
        text = f"{rules.terminal(free_text([thoughts.end]))} {marker(thoughts.end)}"
        return rules.rule(text if thinking else f"{spaces} {marker(thoughts.begin)} {text}")
    begin = "" if thinking else f"{spaces} {literal(thoughts.begin)}"
    return rules.shortest(f"{begin} {ANY} {literal(thoughts.end)}")
