"""Plans a chat for one model: the prompt, the additional inputs for the backend, and how to parse the answer.

PURE: clocks and ids are passed in. The plan follows from the model's chat template, which shows how the model writes
reasoning and tool calls.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_in
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from msgspec.structs import replace

from openai_server.backends.dialects.base import CHATML_BY_DEFAULT, DEFAULT_TEMPLATE, ServerInputs
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.best_effort import without_schemas
from openai_server.core.errors import InvalidRequest, NoChatTemplate, UnsupportedParameter
from openai_server.core.messages import AssistantMessage, FunctionMessage, Message, ToolMessage
from openai_server.core.tools import Tool, ToolUse
from openai_server.core.turn import NO_GUIDE, Turn
from openai_server.parsing import answer_format as parsing
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.reasoning import ReasoningSpan
from openai_server.parsing.tools import generic, schema
from openai_server.parsing.tools.formats import format_of
from openai_server.parsing.tools.grammar import GrammarTooLong
from openai_server.parsing.tools.strictness import resolved
from openai_server.prompting.answer_guide import guide_for, naming_tools
from openai_server.prompting.chat_prompt import ChatPrompt
from openai_server.prompting.fitting import fitted
from openai_server.prompting.markup import CONTROL_TOKENS, MARKUP_PARAMETERS, Markup, markup_of
from openai_server.prompting.plain_fields import PlainFields, field_with
from openai_server.prompting.template import (
    CHATML,
    CHATML_END,
    TEMPLATE_FAILED,
    RenderOptions,
    Templates,
    source_for,
)
from protos import contract


@dataclass(frozen=True, slots=True)
class Plan:
    turn: Turn
    """The turn, with the end of a message as a stop string if the template needs it, and without a guide that became an
    input."""
    prompt: str
    """The rendered prompt. `inputs` has its plain spans."""
    inputs: ServerInputs = field(default_factory=dict)
    """Inputs that this server adds."""
    format: AnswerFormat | None = None
    """How to parse the answer; None: all text is content."""


class Planner:
    """`new_id` creates the ids of tool calls. `refuses_markup`: refuse a chat with markup in its fields if the backend
    has no input for plain spans."""

    def __init__(
        self,
        templates: Templates,
        *,
        new_id: Callable[[], str],
        refuses_markup: bool = False,
    ) -> None:
        self._templates = templates
        self._refuses_markup = refuses_markup
        self._markup = lru_cache(maxsize=16)(self._make_markup)
        self._new_id = new_id

    def plan(self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str]) -> Plan:
        """`parameters` and `input_names` are those of a directory.Model. Takes milliseconds. Raises InvalidRequest."""
        try:
            return self._plan(turn, parameters, input_names)
        except GrammarTooLong:
            if (shorter := without_schemas(turn)) is None:
                raise
        return self._plan(shorter, parameters, input_names)

    def _plan(self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str]) -> Plan:
        # A backend that doesn't list its inputs may refuse a tensor that no client set.
        can_guide = input_names is not EVERYTHING and contract.LARK.name in input_names
        use = turn.tool_use
        template = self._template(use, parameters)
        if use is not None:
            arguments = format_of(template).arguments
            with naming_tools(turn):
                use = replace_in(use, tools=[resolved(tool, arguments, can_guide=can_guide) for tool in use.tools])
            turn = replace(turn, tool_use=use)
        turn = self._with_ended_reasoning(self._without_unused_hint(turn, template), template, input_names)
        rendered = self._render(turn, use, template, parameters, input_names)
        prompt, marked = rendered.text, rendered.marked
        plain: dict[contract.TensorSpec, list[Any]] = {}
        if rendered.plain:
            plain[contract.PLAIN_SPANS] = list(chain.from_iterable(rendered.plain))
        reports_stop = turn.reports_stop and bool(turn.sampling.stop) and contract.INCLUDE_STOP.name in input_names
        if template is CHATML and contract.STOP.name in input_names:
            turn = turn.with_stop(CHATML_END)
        limit = _reasoning_limit(turn, template, marked, input_names)
        if turn.guide.grammar is not None:
            return Plan(turn, prompt, limit | plain)  # GBNF applies to the raw text, including reasoning
        # Without `use`, the answer must not have calls, but the model may write some.
        tools = use.tools if use else turn.tools or None
        inputs = {
            spec: values
            for spec, values in _optional_inputs(template, marked, tools).items()
            if spec.name in input_names
        }
        inputs |= limit | plain
        stops: Sequence[str] = ()
        if reports_stop and turn.sampling.stop:
            inputs[contract.INCLUDE_STOP], stops = [True], turn.sampling.stop
        if guide := guide_for(turn, template, marked, can_guide=can_guide):
            name, lark = guide
            if contract.LARK.name not in input_names:
                raise UnsupportedParameter(name, f"This model's backend can't enforce '{name}'.")
            inputs[contract.LARK] = [lark.encode()]
            turn = replace(turn, guide=NO_GUIDE)
        format = None
        if stops or parsing.needs_parser(template, tools):
            must_call = use is not None and use.must_call
            format = AnswerFormat(
                partial(parsing.parser_for, template, marked, tools, must_call=must_call, allowed=turn.allowed_tools),
                self._new_id,
                legacy=use is not None and use.legacy,
                names_function=use is not None and use.function_name is not None,
                must_call=must_call,
                parallel=use is not None and use.parallel and can_guide,
                custom_tools=frozenset(tool.name for tool in turn.tools if tool.custom is not None),
                strict_tools=frozenset(tool.name for tool in (use.tools if use else ()) if tool.function.strict),
                stops=tuple(stops),
            )
        return Plan(turn, prompt, inputs, format)

    def prompt(self, turn: Turn, parameters: Mapping[str, str], input_names: Container[str]) -> ChatPrompt:
        """The prompt for the model. Raises InvalidRequest."""
        use = turn.tool_use
        template = self._template(use, parameters)
        turn = self._with_ended_reasoning(self._without_unused_hint(turn, template), template, input_names)
        return self._render(turn, use, template, parameters, input_names)

    def template_for(self, turn: Turn, parameters: Mapping[str, str]) -> str:
        """The source of the template that `plan` and `prompt` render. Raises NoChatTemplate."""
        return self._template(turn.tool_use, parameters)

    def _template(self, use: ToolUse | None, parameters: Mapping[str, str]) -> str:
        if source := source_for(parameters, tools=use is not None):
            return source
        if parameters.get(DEFAULT_TEMPLATE) == CHATML_BY_DEFAULT:
            return CHATML
        raise NoChatTemplate

    def _render(
        self,
        turn: Turn,
        use: ToolUse | None,
        template: str,
        parameters: Mapping[str, str],
        input_names: Container[str],
    ) -> ChatPrompt:
        try:
            return self._render_exactly(turn, use, template, parameters, input_names)
        except InvalidRequest as error:
            effort = turn.template.reasoning_effort
            if not turn.effort_is_hint or effort in (None, "none") or error.code != TEMPLATE_FAILED:
                raise
        # Some templates refuse all efforts but a few.
        turn = replace(turn, template=replace(turn.template, reasoning_effort=None))
        return self._render_exactly(turn, use, template, parameters, input_names)

    def _render_exactly(
        self,
        turn: Turn,
        use: ToolUse | None,
        template: str,
        parameters: Mapping[str, str],
        input_names: Container[str],
    ) -> ChatPrompt:
        messages = fitted(turn.messages, self._templates.capabilities(template))
        tools: Sequence[Tool] = use.tools if use else ()
        variables: Mapping[str, Any] = self._variables(turn, template)
        markable = contract.PLAIN_SPANS.name in input_names and CONTROL_TOKENS in parameters
        fields = None
        if markable or self._refuses_markup:
            markup = self._markup(template, *(parameters.get(name) for name in MARKUP_PARAMETERS))
            fields = PlainFields(markup, parsing.thoughts_of(template), template)
        mark = fields.mark if fields else None
        if not format_of(template).in_template and (tools or any(map(_uses_tools, messages))):
            instructions = ""
            if fields:  # before the generic format's tags are added
                (messages, tools), _, variables = fields.mark((messages, tools), None, variables)
                mark = None
            if use:
                instructions = generic.instructions(
                    tools, parallel=use.parallel, must_call=use.must_call, function_name=use.function_name
                )
            messages = generic.as_plain(
                messages, instructions, system_role=self._templates.capabilities(template).system
            )
            tools = ()
        special_tokens = {name: parameters[name] for name in ("bos_token", "eos_token") if name in parameters}
        continues = bool(turn.template.continue_final_message)
        add_prompt = turn.template.add_generation_prompt
        if add_prompt is None:
            add_prompt = not continues
        options = RenderOptions(
            tools=[_template_tool(tool) for tool in tools],
            add_generation_prompt=add_prompt,
            continue_final_message=continues,
            chat_template_kwargs=variables,
        )
        try:
            rendered = self._templates.render(template, messages, special_tokens, options, mark)
        except InvalidRequest as error:
            if error.param == "messages":
                error.param = turn.name("messages")
            if fields:
                error.message = fields.clean(error.message)
            raise
        if not fields:
            return ChatPrompt(rendered, (), rendered)
        prompt = fields.prompt(rendered)
        if prompt.plain and not markable:
            field = field_with(turn, markup)
            raise InvalidRequest(
                f"'{field}' contains markup of the model's chat template, which this model's backend can't distinguish "
                "from the template's own.",
                param=field,
                code="markup_in_message",
            )
        return prompt

    def _make_markup(self, template: str, *values: str | None) -> Markup:
        parameters = {name: value for name, value in zip(MARKUP_PARAMETERS, values, strict=True) if value is not None}
        return markup_of(parameters, self._templates.capabilities(template), parsing.thoughts_of(template))

    def _without_unused_hint(self, turn: Turn, template: str) -> Turn:
        """The turn without `enable_thinking`, if that is a hint and the template has no switch for it."""
        if not turn.thinking_is_hint or turn.template.enable_thinking is None:
            return turn
        if not self._templates.capabilities(template).variables.isdisjoint(_SWITCHES):
            return turn
        return replace(turn, template=replace(turn.template, enable_thinking=None))

    def _with_ended_reasoning(self, turn: Turn, template: str, input_names: Container[str]) -> Turn:
        """The turn with a limit of no tokens instead of an option that turns reasoning off, if the template has no
        variable for that and the backend can end reasoning."""
        options, variables = turn.template, self._templates.capabilities(template).variables
        is_off_by_effort = options.reasoning_effort == "none" and "reasoning_effort" not in variables
        if options.enable_thinking or (options.enable_thinking is None and not is_off_by_effort):
            return turn
        if not variables.isdisjoint(_SWITCHES) or not parsing.thoughts_of(template):
            return turn
        if input_names is EVERYTHING or not all(spec.name in input_names for spec in _LIMIT):
            return turn
        effort = None if is_off_by_effort else options.reasoning_effort
        options = replace(options, enable_thinking=None, reasoning_effort=effort)
        return replace(turn, template=options, reasoning_limit=0)

    def _variables(self, turn: Turn, template: str) -> dict[str, Any]:
        """The variables for the template. Raises UnsupportedParameter for one that the template doesn't use."""
        options = turn.template
        variables = dict(options.chat_template_kwargs or {})
        if options.reasoning_effort is None and options.enable_thinking is None:
            return variables
        supported = self._templates.capabilities(template).variables
        thinking = options.enable_thinking
        if (effort := options.reasoning_effort) is not None:
            if "reasoning_effort" in supported:
                variables["reasoning_effort"] = effort
            elif thinking is None:
                thinking = effort != "none"
        if thinking is not None:
            switches = [name for name in _SWITCHES if name in supported]
            is_hint = turn.effort_is_hint and thinking and options.enable_thinking is None
            always_thinks = bool(options.enable_thinking) and parsing.span_of(template, "") is not None
            if not switches and not (is_hint or always_thinks) and (thinking or parsing.thoughts_of(template)):
                name = turn.name("reasoning_effort" if options.enable_thinking is None else "enable_thinking")
                raise UnsupportedParameter(name, f"This model's chat template does not support '{name}'.")
            variables |= dict.fromkeys(switches, thinking)
        return variables


_SWITCHES = ("enable_thinking", "thinking")
"""Names that templates use for the variable that turns reasoning on and off."""
_LIMIT = (contract.MAX_MARKED_TOKENS, contract.MARK_BEGIN, contract.MARK_END)
"""Inputs that limit reasoning."""


def _uses_tools(message: Message) -> bool:
    if isinstance(message, AssistantMessage):
        return bool(message.tool_calls or message.function_call)
    return isinstance(message, ToolMessage | FunctionMessage)


def _template_tool(tool: Tool) -> dict[str, Any]:
    """The tool as templates expect it, without absent fields."""
    function = tool.function
    fields: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        fields["description"] = function.description
    if function.parameters is not None:
        # Templates loop over `properties`, so the key must exist.
        fields["parameters"] = schema.with_properties(function.parameters)
    return {"type": "function", "function": fields}


def _optional_inputs(template: str, prompt: str, tools: Sequence[Tool] | None) -> dict[contract.TensorSpec, list[Any]]:
    """Inputs to send if the backend has them. The answer can be parsed without them, but less accurately."""
    inputs: dict[contract.TensorSpec, list[Any]] = {}
    if parsing.needs_special_tokens(template, tools):
        inputs[contract.SKIP_SPECIAL_TOKENS] = [False]
    if span := parsing.span_of(template, prompt):
        inputs |= _marks(span)
    return inputs


def _marks(span: ReasoningSpan) -> dict[contract.TensorSpec, list[Any]]:
    marks: dict[contract.TensorSpec, list[Any]] = {contract.MARK_END: [end.encode() for end in span.ends]}
    if span.begin:
        marks[contract.MARK_BEGIN] = [span.begin.encode()]
    return marks


def _reasoning_limit(
    turn: Turn, template: str, prompt: str, input_names: Container[str]
) -> dict[contract.TensorSpec, list[Any]]:
    """The inputs that limit reasoning; none for a model that doesn't reason. Raises UnsupportedParameter."""
    if turn.reasoning_limit is None or (span := parsing.span_of(template, prompt)) is None:
        return {}
    inputs = {**_marks(span), contract.MAX_MARKED_TOKENS: [turn.reasoning_limit]}
    if not all(spec.name in input_names for spec in inputs):
        name = turn.name("reasoning_limit")
        raise UnsupportedParameter(name, f"This model's backend does not support '{name}'.")
    return inputs
