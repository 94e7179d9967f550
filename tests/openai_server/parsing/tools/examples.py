"""Two calls in every format, as its grammar accepts them."""

from typing import NamedTuple


class CallExample(NamedTuple):
    """Two calls in one format, get_weather in Paris and now, exactly as its grammar accepts them."""

    before: str
    first: str
    between: str
    second: str
    after: str

    @property
    def single(self) -> str:
        return self.before + self.first + self.after

    @property
    def both(self) -> str:
        return "".join(self)


def _json(before: str, between: str, after: str) -> CallExample:
    first = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
    return CallExample(before, first, between, '{"name": "now", "arguments": {}}', after)


_DSML_CITY = '\n<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
EXAMPLES = {
    "hermes": _json("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    "generic": _json("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    "granite": _json("<|tool_call|>[", ", ", "]"),
    "phi4": _json("<|tool_call|>[", ", ", "]<|/tool_call|>"),
    "nemotron": _json("<TOOLCALL>[", ", ", "]</TOOLCALL>"),
    "apriel": _json("<tool_calls>[", ", ", "]</tool_calls>"),
    "gigachat": _json("<|function_call|>", "<|function_call|>", ""),
    "mistral-list": _json("[TOOL_CALLS][", ", ", "]"),
    "llama-json": CallExample("", '{"name": "get_weather", "parameters": {"city": "Paris"}}', "", "", ""),
    "llama-pythonic": CallExample("[", 'get_weather(city="Paris")', ", ", "now()", "]"),
    "lfm2": CallExample("<|tool_call_start|>[", 'get_weather(city="Paris")', ", ", "now()", "]<|tool_call_end|>"),
    "mistral": CallExample("[TOOL_CALLS]", 'get_weather[ARGS]{"city": "Paris"}', "[TOOL_CALLS]", "now[ARGS]{}", ""),
    "mistral-ids": CallExample(
        "[TOOL_CALLS]",
        'get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}',
        "[TOOL_CALLS]",
        "now[CALL_ID]000000001[ARGS]{}",
        "",
    ),
    "command-r": CallExample(
        "Action:\n```json\n[\n    {\n",
        '        "tool_name": "get_weather",\n        "parameters": {"city": "Paris"}\n    }',
        ",\n    {\n",
        '        "tool_name": "now",\n        "parameters": {}\n    }',
        "\n]\n```",
    ),
    "command-r7b": CallExample(
        "<|START_ACTION|>[\n    ",
        '{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}',
        ",\n    ",
        '{"tool_call_id": "1", "tool_name": "now", "parameters": {}}',
        "\n]<|END_ACTION|>",
    ),
    "deepseek-v3": CallExample(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
        'function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>',
        "\n<｜tool▁call▁begin｜>",
        "function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseek-v3.1": CallExample(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
        'get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>',
        "<｜tool▁call▁begin｜>",
        "now<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseek-v3.2": CallExample(
        "<｜DSML｜function_calls>\n",
        f'<｜DSML｜invoke name="get_weather">{_DSML_CITY}</｜DSML｜invoke>\n',
        "",
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n',
        "</｜DSML｜function_calls>",
    ),
    "deepseek-v4": CallExample(
        "<｜DSML｜tool_calls>\n",
        f'<｜DSML｜invoke name="get_weather">{_DSML_CITY}</｜DSML｜invoke>\n',
        "",
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n',
        "</｜DSML｜tool_calls>",
    ),
    "kimi": CallExample(
        "<|tool_calls_section_begin|><|tool_call_begin|>",
        'functions.get_weather:0<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|>',
        "<|tool_call_begin|>",
        "functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    ),
    "functionary-v3.1": CallExample(
        "<function=", 'get_weather>{"city": "Paris"}</function>', "<function=", "now>{}</function>", ""
    ),
    "functionary-v3.2": CallExample("", 'get_weather\n{"city": "Paris"}', ">>>", "now\n{}", ""),
    "qwen3-coder": CallExample(
        "<tool_call>\n",
        "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>",
        "\n</tool_call>\n<tool_call>\n",
        "<function=now>\n</function>",
        "\n</tool_call>",
    ),
    "seed": CallExample(
        "<seed:tool_call>\n",
        "<function=get_weather>\n<parameter=city>Paris</parameter>\n</function>",
        "\n</seed:tool_call>\n<seed:tool_call>\n",
        "<function=now>\n</function>",
        "\n</seed:tool_call>",
    ),
    "minimax-m2": CallExample(
        "<minimax:tool_call>\n",
        '<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n',
        "",
        '<invoke name="now">\n</invoke>\n',
        "</minimax:tool_call>",
    ),
    "glm": CallExample(
        "<tool_call>",
        "get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
        "\n<tool_call>",
        "now\n</tool_call>",
        "",
    ),
    "harmony": CallExample(
        "", '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}', "", "", ""
    ),
}
EXAMPLES["cohere2"] = EXAMPLES["command-r7b"]
SINGLE_CALL_FORMATS = {"llama-json", "harmony"}
