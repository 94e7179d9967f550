"""Texts in every format, as models write them, with the answers that they contain."""

import pytest

from openai_server.parsing.tools.bare import LLAMA_JSON, LLAMA_PYTHONIC
from openai_server.parsing.tools.command_r import COHERE2, COMMAND_R, COMMAND_R7B
from openai_server.parsing.tools.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.functionary import FUNCTIONARY_V31, FUNCTIONARY_V32
from openai_server.parsing.tools.generic import GENERIC
from openai_server.parsing.tools.glm import GLM
from openai_server.parsing.tools.harmony import HARMONY
from openai_server.parsing.tools.kimi import KIMI
from openai_server.parsing.tools.mistral import MISTRAL, MISTRAL_LIST, MISTRAL_WITH_IDS
from openai_server.parsing.tools.python_calls import LFM2
from openai_server.parsing.tools.tagged import APRIEL, GIGACHAT, GRANITE, HERMES, NEMOTRON, PHI4
from openai_server.parsing.tools.xml_calls import DEEPSEEK_V4, DEEPSEEK_V32, MINIMAX, QWEN3_CODER, SEED
from tests.openai_server.parsing.answers import Answer, Call, tool

WEATHER = tool("get_weather", {"city": {"type": "string"}, "days": {"type": "integer"}}, "city")
EDIT = tool(
    "edit",
    {
        "text": {"type": "string"},
        "lines": {"type": "array", "items": {"type": "integer"}},
        "sure": {"type": "boolean"},
        "note": {"type": ["string", "null"]},
        "any": {},
    },
)
NOW = tool("now")
TOOLS = [WEATHER, EDIT, NOW]

PARIS = Call("get_weather", '{"city": "Paris"}')
ROME = Call("get_weather", '{"city": "Rome", "days": 2}')

CASES: list[tuple[ToolFormat, str, Answer]] = [
    # ---- JSON within tags
    (HERMES, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', Answer("", [PARIS])),
    (
        HERMES,
        'Two calls.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>\n',
        Answer("Two calls.", [PARIS, ROME]),
    ),
    (
        HERMES,
        'Before.\n<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call> after',
        Answer("Before.\nafter", [PARIS]),
    ),
    (HERMES, '<tool_call>\n{"name": "now"}\n</tool_call>', Answer("", [Call("now", "{}")])),
    (HERMES, '<tool_call>\n{"name": "now", "arguments": null}', Answer("", [Call("now", "{}")])),
    (HERMES, '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}', Answer("", [Call("now", '{"a": 1}')])),
    (HERMES, "<tool_call>\n{'name': 'now', 'arguments': {'a': True}}", Answer("", [Call("now", '{"a": true}')])),
    (HERMES, '<tool_call>{"name": "stranger", "arguments": {}}</tool_call>', Answer("", [Call("stranger", "{}")])),
    (
        HERMES,
        '<tool_call>{"name": "edit", "arguments": {"text": "</tool_call> {\\"é\\": [\\n😀"}}</tool_call>',
        Answer("", [Call("edit", '{"text": "</tool_call> {\\"é\\": [\\n😀"}')]),
    ),
    (
        HERMES,
        '<tool_call>{"id": 7, "name": "edit", "arguments": {"any": {"a": [{}, [1.5e3]]}}, "x": [""]}</tool_call>',
        Answer("", [Call("edit", '{"any": {"a": [{}, [1.5e3]]}}')]),
    ),
    (HERMES, "Write <tool_call> around it.", Answer("Write <tool_call> around it.")),
    (HERMES, "Write <tool_call>", Answer("Write")),
    (HERMES, '<tool_call>{"name": "now", "arguments": {}}}}]\n</tool_call>Done.', Answer("Done.", [Call("now", "{}")])),
    (
        HERMES,
        f'<tool_call>{{"name": "now", "arguments": ""}}{" " * 200}</tool_call> Done.',
        Answer("Done.", [Call("now", "{}")]),
    ),
    (
        HERMES,  # an invalid call, followed by a valid one
        '<tool_call>{"name": "now", "arguments": {oops}</tool_call> Well. <tool_call>{"name": "now"}</tool_call>',
        Answer("Well.", [Call("now", "{"), Call("now", "{}")]),
    ),
    (HERMES, "<tool_call>\n</tool_call>", Answer("<tool_call>\n</tool_call>")),
    (HERMES, '<tool_call>{"arguments": {}}</tool_call>', Answer('<tool_call>{"arguments": {}}</tool_call>')),
    (HERMES, '<tool_call>{"name": {}}', Answer('<tool_call>{"name": {}}')),
    (HERMES, '<tool_call>{"name": ""}', Answer('<tool_call>{"name": ""}')),
    (HERMES, "<tool_calls> a < b <tool <tool_cal", Answer("<tool_calls> a < b <tool <tool_cal")),
    (HERMES, '{"name": "get_weather", "arguments": {}}', Answer('{"name": "get_weather", "arguments": {}}')),
    (
        HERMES,  # only the second call is valid
        '<tool_call>{"name": oops}</tool_call><tool_call>{"name": "now"}</tool_call>',
        Answer('<tool_call>{"name": oops}</tool_call>', [Call("now", "{}")]),
    ),
    (
        HERMES,  # becomes invalid after the call has begun
        '<tool_call>{"name": "edit", "arguments": {"lines": [1, }</tool_call>',
        Answer("", [Call("edit", '{"lines": [1, ')]),
    ),
    (GENERIC, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', Answer("", [Call("now", "{}")])),
    (
        GRANITE,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        '{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}]',
        Answer("", [PARIS, ROME]),
    ),
    (GRANITE, '<|tool_call|>[{"name": "now"}, oops]', Answer("", [Call("now", "{}")])),
    (GRANITE, "<|tool_call|>[]", Answer("<|tool_call|>[]")),
    (
        PHI4,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]<|/tool_call|>',
        Answer("", [PARIS]),
    ),
    (
        PHI4,
        'functools[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]',
        Answer("", [PARIS, Call("now", "{}")]),
    ),
    (PHI4, "import functools", Answer("import functools")),
    (
        NEMOTRON,
        '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</TOOLCALL>\n',
        Answer("", [PARIS]),
    ),
    (APRIEL, '<tool_calls>[{"name": "now", "arguments": {}, "id": "1"}]</tool_calls>', Answer("", [Call("now", "{}")])),
    (
        APRIEL,
        '<tool_calls>\n{"name": "now", "arguments": {}}\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        "</tool_calls>",
        Answer("", [Call("now", "{}"), PARIS]),
    ),
    (GIGACHAT, '<|function_call|>{"name": "get_weather", "arguments": {"city": "Paris"}}', Answer("", [PARIS])),
    # ---- Llama
    (LLAMA_JSON, '{"name": "get_weather", "parameters": {"city": "Paris"}}', Answer("", [PARIS])),
    (
        LLAMA_JSON,
        '\n<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}',
        Answer("", [PARIS]),
    ),
    (LLAMA_JSON, '{"type": "function", "function": "now", "parameters": {}}', Answer("", [Call("now", "{}")])),
    (
        LLAMA_JSON,
        '{"name": "get_weather", "parameters": {"city": "Paris"}}; '
        '{"name": "get_weather", "parameters": {"city": "Rome", "days": 2}}',
        Answer("", [PARIS, ROME]),
    ),
    (LLAMA_JSON, '{"name": "now"}', Answer("", [Call("now", "{}")])),
    (LLAMA_JSON, '{"name": "Alice", "age": 3} is JSON.', Answer('{"name": "Alice", "age": 3} is JSON.')),
    (LLAMA_JSON, ' {"a": [1, 2', Answer(' {"a": [1, 2')),
    (LLAMA_JSON, '{"name": "Ali', Answer('{"name": "Ali')),
    (LLAMA_JSON, '{"name": "get_w', Answer("")),
    (LLAMA_JSON, '<|python_tag|>{"name": "Ali', Answer("")),
    (LLAMA_JSON, 'Say {"name": "now"}', Answer('Say {"name": "now"}')),
    (LLAMA_JSON, "Let me see. <|python_tag|>print(1)", Answer("Let me see. <|python_tag|>print(1)")),
    (
        LLAMA_PYTHONIC,
        "[get_weather(city='Paris'), get_weather(city=\"Rome\", days=2), now()]",
        Answer("", [PARIS, ROME, Call("now", "{}")]),
    ),
    (
        LLAMA_PYTHONIC,
        "<|python_start|>[edit(sure=True, note=None, lines=[1, 2], any={'a': {}})]<|python_end|>",
        Answer("", [Call("edit", '{"sure": true, "note": null, "lines": [1, 2], "any": {"a": {}}}')]),
    ),
    (LLAMA_PYTHONIC, "[link text](url)", Answer("[link text](url)")),
    (LLAMA_PYTHONIC, "[1] says f(x=1)", Answer("[1] says f(x=1)")),
    (LLAMA_PYTHONIC, "[f(1)]", Answer("[f(1)]")),
    (LLAMA_PYTHONIC, "[1, 2", Answer("[1, 2")),
    (LLAMA_PYTHONIC, "[get_w", Answer("")),
    (LLAMA_PYTHONIC, "[get_rain", Answer("[get_rain")),
    (LLAMA_PYTHONIC, "[f(x=1] more", Answer("", [Call("f", '{"x": 1')])),
    (
        LFM2,
        'I look.<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>Done.',
        Answer("I look.Done.", [PARIS]),
    ),
    (LFM2, '<|tool_call_start|>[a.b(c = "x\\ny")]', Answer("", [Call("a.b", '{"c": "x\\ny"}')])),
    # ---- Mistral
    (MISTRAL, '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', Answer("", [PARIS])),
    (
        MISTRAL,
        'Two.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]get_weather[ARGS]{"city": "Rome", "days": 2}',
        Answer("Two.", [PARIS, ROME]),
    ),
    (MISTRAL, '[TOOL_CALLS]get_weather{"city": "Paris"}', Answer("", [PARIS])),
    (MISTRAL, "[TOOL_CALLS] get [TOOL", Answer("[TOOL_CALLS] get [TOOL")),
    (MISTRAL, "[TOOL_CALLS]now[ARGS]null", Answer("", [Call("now", "{}")])),
    (MISTRAL, "[TOOL_CALLS]now[ARGS][TOOL_CALLS]now[ARGS]{}", Answer("", [Call("now", "{}"), Call("now", "{}")])),
    (
        MISTRAL_WITH_IDS,
        "[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{}[TOOL_CALLS]now[CALL_ID]000000001[ARGS]{}",
        Answer("", [Call("now", "{}", "a1b2c3d4e"), Call("now", "{}", "000000001")]),
    ),
    (
        MISTRAL_LIST,
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "123456789"}]',
        Answer("", [PARIS]),
    ),
    # ---- Cohere
    (
        COMMAND_R,
        'I will look.\nAction:\n```json\n[\n    {\n        "tool_name": "get_weather",\n'
        '        "parameters": {"city": "Paris"}\n    }\n]\n```',
        Answer("I will look.", [PARIS]),
    ),
    (COMMAND_R, 'Action: ```json\n[{"tool_name": "now", "parameters": {}}]```', Answer("", [Call("now", "{}")])),
    (
        COMMAND_R,
        'Action: ```json\n[{"tool_name": "now", "parameters": {oops}}\n```Action: ```json\n[{"tool_name": "now"}]```',
        Answer("", [Call("now", "{"), Call("now", "{}")]),
    ),
    (COMMAND_R, "Action: wait", Answer("Action: wait")),
    (
        COMMAND_R7B,
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}\n'
        "]<|END_ACTION|>",
        Answer("", [PARIS]),
    ),
    (COMMAND_R7B, "<|START_RESPONSE|>Hello.<|END_RESPONSE|>", Answer("Hello.")),
    (COHERE2, "<|START_TEXT|>Hello.<|END_TEXT|>", Answer("Hello.")),
    # ---- DeepSeek
    (
        DEEPSEEK_V3,
        "Two.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Paris"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        Answer("Two.", [PARIS, Call("now", "{}")]),
    ),
    (
        DEEPSEEK_V31,
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        Answer("", [PARIS, Call("function", "{}")]),
    ),
    (
        DEEPSEEK_V31,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜><｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        Answer("", [Call("now", "{}")]),
    ),
    (DEEPSEEK_V31, "<｜tool▁call▁begin｜>a b", Answer("<｜tool▁call▁begin｜>a b")),
    (DEEPSEEK_V31, "<｜tool▁call▁begin｜>a<｜tool▁sep｜>b", Answer("<｜tool▁call▁begin｜>a<｜tool▁sep｜>b")),
    (
        DEEPSEEK_V32,
        '\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        Answer("", [ROME]),
    ),
    (
        DEEPSEEK_V4,
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="edit">\n<｜DSML｜parameter name="text" string="true">7'
        '</｜DSML｜parameter>\n<｜DSML｜parameter name="any" string="false">{"a": 1}</｜DSML｜parameter>\n'
        '</｜DSML｜invoke>\n<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>',
        Answer("", [Call("edit", '{"text": "7", "any": {"a": 1}}'), Call("now", "{}")]),
    ),
    # ---- Kimi
    (
        KIMI,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
        "<|tool_call_end|><|tool_calls_section_end|>",
        Answer(
            "",
            [Call("get_weather", '{"city": "Paris"}', "functions.get_weather:0"), Call("now", "{}", "functions.now:1")],
        ),
    ),
    (KIMI, "<|tool_call_begin|>functions.now", Answer("")),
    (KIMI, "<|tool_call_begin|>functions.now: x", Answer("<|tool_call_begin|>functions.now: x")),
    (
        KIMI,
        "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|><|tool_call_end|>",
        Answer("", [Call("now", "{}", "functions.now:0")]),
    ),
    # ---- Functionary
    (
        FUNCTIONARY_V31,
        'Look: <function=get_weather>{"city": "Paris"}</function><function=now>{}</function>',
        Answer("Look:", [PARIS, Call("now", "{}")]),
    ),
    (FUNCTIONARY_V31, "<function=now></function> Done.", Answer("Done.", [Call("now", "{}")])),
    (FUNCTIONARY_V31, "<function=f>(x)</function>", Answer("<function=f>(x)</function>")),
    (FUNCTIONARY_V31, "<function= f>", Answer("<function= f>")),
    (FUNCTIONARY_V32, ">>>all\nHello.", Answer("Hello.")),
    (FUNCTIONARY_V32, ">>>now\n>>>all\nHello.", Answer("Hello.", [Call("now", "{}")])),
    (
        FUNCTIONARY_V32,
        '>>>all\nLook: >>> x\n>>>get_weather\n{"city": "Paris"}>>>now\n{}',
        Answer("Look: >>> x", [PARIS, Call("now", "{}")]),
    ),
    (FUNCTIONARY_V32, ">>>f\nx >>>", Answer("f\nx")),
    (FUNCTIONARY_V32, ">>>Hello, >>>you there", Answer("Hello, >>>you there")),
    # ---- XML
    (
        QWEN3_CODER,
        "I look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
        "</tool_call>",
        Answer("I look.", [PARIS]),
    ),
    (
        QWEN3_CODER,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        Answer("", [ROME, Call("now", "{}")]),
    ),
    (
        QWEN3_CODER,
        '<tool_call>\n<function=edit>\n<parameter=text>\n  <b>"é"\\n</b>\n\n</parameter>\n<parameter=lines>\n[1, 2]\n'
        "</parameter>\n<parameter=sure>\nTrue\n</parameter>\n<parameter=note>\nnull\n</parameter>\n<parameter=any>\n"
        "2 x\n</parameter>\n<parameter=other>\n{'a': 1}\n</parameter>\n</function>\n</tool_call>",
        Answer(
            "",
            [
                Call(
                    "edit",
                    '{"text": "  <b>\\"é\\"\\\\n</b>\\n", "lines": [1, 2], "sure": true, "note": null, "any": "2 x", '
                    '"other": {"a": 1}}',
                )
            ],
        ),
    ),
    (
        QWEN3_CODER,  # without the outer tag or the inner end tag
        "<function=get_weather>\n<parameter=city>Paris</parameter>\n</tool_call>\n<function=now></function>",
        Answer("", [PARIS, Call("now", "{}")]),
    ),
    (
        QWEN3_CODER,  # not a number
        "<function=get_weather><parameter=days>\ntwo\n</parameter></function>",
        Answer("", [Call("get_weather", '{"days": "two"}')]),
    ),
    (QWEN3_CODER, "<tool_call> <function= x", Answer("<tool_call> <function= x")),
    (QWEN3_CODER, "<tool_call>\n<function=now>\n<b>", Answer("<tool_call>\n<function=now>\n<b>")),
    (
        QWEN3_CODER,
        "<function=edit>\n<parameter=text>\na\n</parameter>\n<parameter=>",
        Answer("", [Call("edit", '{"text": "a"')]),
    ),
    (
        SEED,
        "<seed:tool_call>\n<function=edit>\n<parameter=text>a\n</parameter>\n<parameter=lines>[1]</parameter>\n"
        "</function>\n</seed:tool_call>",
        Answer("", [Call("edit", '{"text": "a\\n", "lines": [1]}')]),
    ),
    (
        MINIMAX,
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n'
        '<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        Answer("", [PARIS, Call("now", "{}")]),
    ),
    (
        GLM,
        "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>",
        Answer("", [ROME]),
    ),
    (
        GLM,
        "Two.<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call>"
        "<tool_call>now</tool_call>",
        Answer("Two.", [PARIS, Call("now", "{}")]),
    ),
    (GLM, "<tool_call>a b</tool_call>", Answer("<tool_call>a b</tool_call>")),
    (GLM, "<tool_call>now<arg_key>x<arg_value>", Answer("<tool_call>now<arg_key>x<arg_value>")),
    # ---- gpt-oss; the prompt ends with <|start|>assistant
    (HARMONY, "<|channel|>final<|message|>Hello.", Answer("Hello.")),
    (
        HARMONY,
        "<|channel|>analysis<|message|>I\nthink.<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>",
        Answer("Hello.", [], "I\nthink."),
    ),
    (
        HARMONY,
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Paris"}<|call|>',
        Answer("I look.", [PARIS], "One.\n\nTwo."),
    ),
    (
        HARMONY,
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>',
        Answer("", [PARIS]),
    ),
    (HARMONY, " to=functions.now<|channel|>commentary json<|message|><|call|>", Answer("", [Call("now", "{}")])),
    (HARMONY, " to=functions.now<|channel|>commentary json<|message|>null<|call|>", Answer("", [Call("now", "{}")])),
    (HARMONY, " to=functions.now<|channel|>commentary<|message|>{} oops<|call|>", Answer("", [Call("now", "{}")])),
    (HARMONY, "<|channel|>final<|mess", Answer("")),
    (HARMONY, "<|channel|>final<|message|>Hello.<|end|><|start|>assis", Answer("Hello.")),
    (
        HARMONY,
        '<|channel|>analysis to=python code<|message|>print("é")\n<|call|>',
        Answer("", [Call("python", '"print(\\"é\\")\\n"')]),
    ),
    (
        HARMONY,
        "<|channel|>commentary to=assistant<|channel|>analysis<|message|>I think.<|end|>"
        "<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}",
        Answer("{}", [], "I think."),
    ),
    (HARMONY, "No header <|message|>and one", Answer("No header and one")),
    (HARMONY, "<|channel|>fin", Answer("")),
    (HARMONY, "<|start|>assistant", Answer("")),
    (HARMONY, "<|start|>assistant<|end|>Hello.", Answer("Hello.")),
]
FORMATS: dict[str, ToolFormat] = {tool_format.name: tool_format for tool_format, _, _ in CASES}
each_case = pytest.mark.parametrize(("tool_format", "text", "expected"), CASES, ids=[case[0].name for case in CASES])
