"""The guide of an answer: the grammar that its reasoning, content and calls must match, for a backend that enforces it.

PURE. A guide of the client alone goes to the backend as it is; a grammar is built where the model may also reason or
call tools.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from openai_server.core import guide_parts
from openai_server.core.best_effort import for_grammar
from openai_server.core.closing import closed
from openai_server.core.errors import InvalidRequest
from openai_server.core.lark import json_value, literal, nested
from openai_server.core.turn import Guide, Turn
from openai_server.parsing import answer_format as parsing


def guide_for(turn: Turn, template: str, prompt: str, *, can_guide: bool) -> tuple[str, str] | None:
    """The field that requires a guide generated here, and the guide in Lark. None: the text is unconstrained, or the
    turn's own guide is enough. `can_guide`: the backend reports that it can enforce a guide."""
    if not (turn.guide or turn.tools or turn.tool_use):
        return None  # as for most chats
    with naming_tools(turn):
        return _build_guide(turn, template, prompt, can_guide=can_guide)


@contextmanager
def naming_tools(turn: Turn) -> Iterator[None]:
    """Sets the client's field in the error for a tool."""
    try:
        yield
    except InvalidRequest as error:
        if error.param == "tools":
            error.param = turn.name("tools") if turn.tool_use else turn.guide.field
        name = guide_parts.function_of(error.param or "")
        for i, tool in enumerate(turn.tools):
            if name == tool.name:
                error.param = turn.tool_field(i)
        raise


def _build_guide(turn: Turn, template: str, prompt: str, *, can_guide: bool) -> tuple[str, str] | None:
    use = for_grammar(turn.tool_use) if turn.tool_use else None
    body, options = _body(turn.guide), turn.template
    thinking_is_off = options.enable_thinking is False or options.reasoning_effort == "none"
    may_think = not thinking_is_off and parsing.thoughts_of(template) is not None
    if use and use.must_call:
        return turn.name("tool_use"), parsing.grammar_for(
            template, prompt, use.tools, parallel=use.parallel, function_name=use.function_name, may_think=may_think
        )
    if body and (use or may_think):
        tools, parallel = (use.tools, use.parallel) if use else ((), True)
        return turn.guide.field, parsing.guided_grammar_for(
            template, prompt, tools, parallel=parallel, body=body, may_think=may_think
        )
    is_restricted = turn.allowed_tools is not None
    if use and (any(tool.function.strict for tool in use.tools) or (is_restricted and can_guide)):
        return turn.name("tools"), parsing.strict_grammar_for(
            template, prompt, use.tools, parallel=use.parallel, may_think=may_think
        )
    if is_restricted and can_guide and not turn.guide:
        return turn.name("tool_use"), parsing.text_grammar_for(template, prompt, turn.tools, may_think=may_think)
    return None


def _body(guide: Guide) -> str:
    """The constraint on the content, in Lark; empty if there is none."""
    if guide.regex is not None:
        return "/" + re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", guide.regex, flags=re.DOTALL) + "/"
    if guide.choice is not None:
        return " | ".join(map(literal, guide.choice))
    if guide.lark is not None:
        return nested(guide.lark)
    if guide.json_schema is None:
        return ""
    return json_value(closed(guide.json_schema), exactly=guide.strict, whitespace=guide.whitespace)
