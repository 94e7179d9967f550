import orjson

from openai_server.core.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    FunctionMessage,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.parsing.tools.generic import GENERIC, as_plain, instructions
from tests.openai_server.parsing.answers import Call, answer
from tests.openai_server.parsing.tools.cases import NOW, TOOLS, WEATHER


def call(name: str, arguments: str) -> ToolCall:
    return ToolCall("call_1", FunctionCall(name, arguments))


def test_instructions_describe_the_tools() -> None:
    text = instructions(TOOLS)
    listed = text.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
    assert [orjson.loads(line)["name"] for line in listed] == ["get_weather", "edit", "now"]
    assert orjson.loads(listed[0]) == {"name": "get_weather", "parameters": WEATHER.function.parameters}
    assert "as usual" in text
    assert "one function at a time" not in text


def test_the_example_has_no_arguments_if_no_tool_has_parameters() -> None:
    assert '"arguments": {"argument": "value"}' in instructions([WEATHER])
    assert "without parameters" not in instructions([WEATHER])
    assert '"arguments": {}}' in instructions([NOW])
    assert '"value"' not in instructions([NOW])
    assert 'For a function without parameters, write "arguments": {}.' in instructions([WEATHER, NOW])


def test_instructions_include_the_tool_choice() -> None:
    assert "one function at a time" in instructions(TOOLS, parallel=False)
    assert instructions(TOOLS, must_call=True).endswith("Answer with a function call.")
    assert instructions(TOOLS, must_call=True, function_name="now").endswith("Answer with a call of now.")


def test_calls_and_results_become_plain_messages() -> None:
    messages: list[Message] = [
        UserMessage("Weather?"),
        AssistantMessage("I look.", tool_calls=[call("get_weather", '{"city": "Paris"}'), call("now", "")]),
        ToolMessage("sunny", "call_1"),
        FunctionMessage("now"),
        UserMessage([TextPart("And"), TextPart("Rome?")], name="me"),
        AssistantMessage(tool_calls=[call("get_weather", '{"city": "Rome"}')]),
        ToolMessage([TextPart("rain")], "call_1"),
        AssistantMessage("Rain."),
    ]
    assert as_plain(messages, "instructions") == [
        SystemMessage("instructions"),
        UserMessage("Weather?"),
        AssistantMessage(
            'I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
        ),
        UserMessage(
            "<tool_response>\nsunny\n</tool_response>\n<tool_response>\n\n</tool_response>\n\nAnd\nRome?", name="me"
        ),
        AssistantMessage('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'),
        UserMessage("<tool_response>\nrain\n</tool_response>"),
        AssistantMessage("Rain."),
    ]
    assert messages[1] == AssistantMessage(  # the input is not modified
        "I look.", tool_calls=[call("get_weather", '{"city": "Paris"}'), call("now", "")]
    )


def test_instructions_go_to_the_system_message_or_the_first_user_message() -> None:
    user = UserMessage("u")
    assert as_plain([SystemMessage("s"), user], "instructions") == [SystemMessage("s\n\ninstructions"), user]
    assert as_plain([DeveloperMessage("s"), user], "instructions") == [DeveloperMessage("s\n\ninstructions"), user]
    assert as_plain([user], "instructions") == [SystemMessage("instructions"), user]
    assert as_plain([user], "instructions", system_role=False) == [UserMessage("instructions\n\nu")]
    assert as_plain([AssistantMessage("a")], "instructions", system_role=False) == [
        UserMessage("instructions"),
        AssistantMessage("a"),
    ]


def test_the_parser_reads_calls_in_plain_messages() -> None:
    plain = as_plain([AssistantMessage(tool_calls=[call("now", '{"a": "</tool_call>"}')])], "instructions")
    assert isinstance(plain[1], AssistantMessage)
    assert isinstance(plain[1].content, str)
    assert answer(GENERIC.parser(TOOLS), [plain[1].content]).calls == [Call("now", '{"a": "</tool_call>"}')]
