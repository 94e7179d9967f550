"""The `openai` and `anthropic` packages as clients of a model that takes chats, with the sidecar as a process."""

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.wire.chat_server import ANSWER, CALL, server_of
from tests.wire.foreign_server import serving
from tests.wire.test_sidecar_process import sidecar

pytestmark = pytest.mark.slow


async def test_clients_read_all_forms_of_an_answer() -> None:
    server = server_of("decoupled", [*ANSWER[:-1], *CALL])
    async with serving(server) as port, sidecar(port) as running:
        url = f"http://127.0.0.1:{running.port}"
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as openai:
            async with openai.chat.completions.stream(
                model="m",
                messages=[{"role": "user", "content": "hi"}],
                tools=[{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}],
                stream_options={"include_usage": True},
            ) as chat:
                completion = await chat.get_final_completion()
            [choice] = completion.choices
            assert (choice.message.content, choice.finish_reason) == ("one two", "tool_calls")
            assert [call.function.arguments for call in choice.message.tool_calls or ()] == ['{"x":1}']
            assert completion.usage is not None
            assert completion.usage.total_tokens == 12
            async with openai.responses.stream(
                model="m", input="hi", tools=[{"type": "function", "name": "find", "parameters": {}, "strict": False}]
            ) as stream:
                response = await stream.get_final_response()
            assert response.output_text == "one two"
            assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as anthropic:
            async with anthropic.messages.stream(
                model="m",
                max_tokens=9,
                messages=[{"role": "user", "content": "hi"}],
                tools=[{"name": "find", "input_schema": {"type": "object"}}],
            ) as messages:
                message = await messages.get_final_message()
            assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
            assert message.stop_reason == "tool_use"
