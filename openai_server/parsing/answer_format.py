"""Derives from a chat template and a prompt how to parse the answer, and which grammar constrains it.

PURE. Combines reasoning with the formats of tool calls.
"""

from collections.abc import Sequence, Set

from openai_server.core.tools import Tool
from openai_server.parsing.parser import AllowedCalls, CallsOnly, Parser, PlainParser
from openai_server.parsing.reasoning import ReasoningParser, ReasoningSpan, ReasoningTags, starts_inside, tags_of
from openai_server.parsing.tools.formats import format_of


def parser_for(
    template: str,
    prompt: str,
    tools: Sequence[Tool] | None,
    *,
    must_call: bool = False,
    allowed: Set[str] | None = None,
) -> Parser:
    """A parser for one choice of the answer to `prompt`. The answer may call `tools`; it must if `must_call`.

    Calls of other tools than those in `allowed` are dropped; None: none are, not even those of unknown tools.
    """
    tool_format = format_of(template)
    parser: Parser = PlainParser()
    if tools or tool_format.parses_all_answers:
        parser = tool_format.parser(tools or ())
        if tail := tool_format.prompt_tail(prompt):
            parser.push(tail)
    if thoughts := thoughts_of(template):
        parser = ReasoningParser(thoughts, parser, starts_inside(prompt, thoughts))
    if allowed is not None:
        parser = AllowedCalls(parser, allowed)
    return CallsOnly(parser) if must_call else parser


def needs_special_tokens(template: str, tools: Sequence[Tool] | None) -> bool:
    """Whether the parser needs control tokens in the text."""
    tool_format, thoughts = format_of(template), thoughts_of(template)
    return (tool_format.special_tokens and bool(tools or tool_format.parses_all_answers)) or (
        thoughts is not None and thoughts.special_tokens
    )


def grammar_for(
    template: str,
    prompt: str,
    tools: Sequence[Tool],
    *,
    parallel: bool,
    function_name: str | None = None,
    may_think: bool = True,
) -> str:
    """A grammar for an answer that must be a call of these tools, or of `function_name` alone; several if `parallel`.

    With `may_think`, a model that reasons may do so before the call.
    """
    thoughts, thinking = _thinking(template, prompt, may_think=may_think)
    return format_of(template).grammar(
        tools,
        parallel=parallel,
        function_name=function_name,
        thoughts=thoughts,
        thinking=thinking,
    )


def strict_grammar_for(
    template: str, prompt: str, tools: Sequence[Tool], *, parallel: bool, may_think: bool = True
) -> str:
    """A grammar for an answer that may have calls, with arguments that follow the tools' schemas."""
    thoughts, thinking = _thinking(template, prompt, may_think=may_think)
    return format_of(template).strict_grammar(
        tools,
        parallel=parallel,
        thoughts=thoughts,
        thinking=thinking,
    )


def text_grammar_for(template: str, prompt: str, tools: Sequence[Tool], *, may_think: bool = True) -> str:
    """A grammar for an answer that must not call any of `tools`."""
    thoughts, thinking = _thinking(template, prompt, may_think=may_think)
    return format_of(template).text_grammar(tools, thoughts=thoughts, thinking=thinking)


def guided_grammar_for(
    template: str, prompt: str, tools: Sequence[Tool], *, parallel: bool, body: str, may_think: bool = True
) -> str:
    """A grammar for content that matches `body`, in Lark. The model may reason first, or call a tool instead."""
    thoughts, thinking = _thinking(template, prompt, may_think=may_think)
    return format_of(template).guided_grammar(
        tools,
        parallel=parallel,
        body=body,
        thoughts=thoughts,
        thinking=thinking,
    )


def thoughts_of(template: str) -> ReasoningTags | None:
    return None if format_of(template).parses_reasoning else tags_of(template)


def needs_parser(template: str, tools: Sequence[Tool] | None) -> bool:
    """Whether `parser_for` may find anything other than content."""
    tool_format = format_of(template)
    return bool(tools) or tool_format.parses_all_answers or thoughts_of(template) is not None


def span_of(template: str, prompt: str) -> ReasoningSpan | None:
    """The span of the answer with reasoning. None if the model doesn't reason, or writes no tags around it."""
    if thoughts := thoughts_of(template):
        inside = starts_inside(prompt, thoughts)
        return ReasoningSpan("" if inside else thoughts.begin, (thoughts.end, *thoughts.other_ends))
    return format_of(template).reasoning_span


def _thinking(template: str, prompt: str, *, may_think: bool) -> tuple[ReasoningTags | None, bool]:
    """The tags of the reasoning that the answer may begin with (None: none), and whether the prompt opens it."""
    thoughts = thoughts_of(template) if may_think else None
    return thoughts, thoughts is not None and starts_inside(prompt, thoughts)
