"""What a model's chat template and its prompt say of how to read, and how to hold to a form, the answer.

PURE. Composes reasoning and formats of tool calls.
"""

from collections.abc import Sequence

from openai_server.core.tools import Tool
from openai_server.parsing.parser import CallsOnly, Parser, PlainParser
from openai_server.parsing.reasoning import ReasoningParser, ReasoningSpan, ReasoningTags, starts_inside, tags_of
from openai_server.parsing.tools.formats import format_of


def parser_for(template: str, prompt: str, tools: Sequence[Tool] | None, *, must_call: bool = False) -> Parser:
    """A parser for one choice of the answer to `prompt`. `tools` are those it may call, or `must_call`."""
    tool_format = format_of(template)
    parser: Parser = PlainParser()
    if tools or tool_format.always:
        parser = tool_format.parser(tools or ())
        if begun := tool_format.begun_in(prompt):
            parser.push(begun)
    if thoughts := thoughts_of(template):
        parser = ReasoningParser(thoughts, parser, starts_inside(prompt, thoughts))
    return CallsOnly(parser) if must_call else parser


def needs_special_tokens(template: str, tools: Sequence[Tool] | None) -> bool:
    """Whether the parser has to see control tokens in the text."""
    tool_format, thoughts = format_of(template), thoughts_of(template)
    return (tool_format.special_tokens and bool(tools or tool_format.always)) or (
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
    """For an answer that must be a call (or several, if `parallel`) of these tools, or of the one that is `named`.

    Where the model thinks before it answers, it may still do so, unless it has been told not to.
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
    """For an answer that may have calls, whose arguments then follow the schemas."""
    thoughts, thinking = _thinking(template, prompt, may_think=may_think)
    return format_of(template).strict_grammar(
        tools,
        parallel=parallel,
        thoughts=thoughts,
        thinking=thinking,
    )


def guided_grammar_for(
    template: str, prompt: str, tools: Sequence[Tool], *, parallel: bool, body: str, may_think: bool = True
) -> str:
    """For an answer whose content matches `body`, in Lark. The model may think before it, or call a tool instead."""
    thoughts, thinking = _thinking(template, prompt, may_think=may_think)
    return format_of(template).guided_grammar(
        tools,
        parallel=parallel,
        body=body,
        thoughts=thoughts,
        thinking=thinking,
    )


def thoughts_of(template: str) -> ReasoningTags | None:
    return None if format_of(template).reasons else tags_of(template)


def is_read(template: str, tools: Sequence[Tool] | None) -> bool:
    """Whether `parser_for` may find anything but content."""
    tool_format = format_of(template)
    return bool(tools) or tool_format.always or thoughts_of(template) is not None


def span_of(template: str, prompt: str) -> ReasoningSpan | None:
    """None if the model does not reason, or in a way that has no marks."""
    if thoughts := thoughts_of(template):
        inside = starts_inside(prompt, thoughts)
        return ReasoningSpan("" if inside else thoughts.begin, (thoughts.end, *thoughts.ends_as_well))
    return format_of(template).reasoning_span


def _thinking(template: str, prompt: str, *, may_think: bool) -> tuple[ReasoningTags | None, bool]:
    """The tags of thoughts that may come, and whether one has begun."""
    thoughts = thoughts_of(template) if may_think else None
    return thoughts, thoughts is not None and starts_inside(prompt, thoughts)
