"""openai-agents and pydantic-ai with the whole pair.

The small model calls only tools that it must call. openai-agents refuses responses that reached their limit, so its
answers have a schema, with which they always end.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
import uvicorn
from agents import Agent, ModelSettings, OpenAIConversationsSession, RunConfig, Runner, function_tool
from agents.models.default_models import get_default_model
from agents.models.openai_provider import OpenAIProvider
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import ModelSettings as PydanticSettings
from pydantic_ai import NativeOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider as PydanticOpenAIProvider
from sse_starlette.sse import AppStatus

from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2

# A package of openai-agents replaces this method when it is imported. Other tests need uvicorn as it is installed.
assert AppStatus.original_handler is not None
uvicorn.Server.handle_exit = AppStatus.original_handler  # type: ignore[method-assign]


class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    sunny: bool


@pytest.fixture(scope="module")
def url(worker_address: str) -> Iterator[str]:
    """A sidecar that serves the model also under the name that openai-agents uses by default."""
    alias = f"{get_default_model()}={SMOLLM2}"
    with servers.sidecar(worker_address, "--model-alias", alias) as (_, url):
        yield url


# ---- openai-agents


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def config(client: openai.AsyncOpenAI) -> RunConfig:
    # Tracing would send the run to OpenAI.
    return RunConfig(model_provider=OpenAIProvider(openai_client=client), tracing_disabled=True)


async def test_an_agent_runs_its_tool(config: RunConfig) -> None:
    cities = []

    @function_tool
    def weather(city: Literal["Paris", "Rome"]) -> str:
        """Returns the weather of a city."""
        cities.append(city)
        return "sunny"

    settings = ModelSettings(tool_choice="required", parallel_tool_calls=False)
    agent = Agent(
        name="Guide",
        instructions="Be brief.",
        tools=[weather],
        model_settings=settings,
        tool_use_behavior="stop_on_first_tool",
    )
    result = await Runner.run(agent, "What is the weather in Rome?", run_config=config, max_turns=1)
    assert cities
    assert result.final_output == "sunny"
    # The call and its result go back to the server.
    again: list[Any] = [*result.to_input_list(), {"role": "user", "content": "And Paris?"}]
    followed = await Runner.run(Agent(name="Guide", output_type=Weather), again, run_config=config, max_turns=1)
    assert isinstance(followed.final_output, Weather)


async def test_an_agent_hands_off_to_another(config: RunConfig) -> None:
    rome: Agent[None] = Agent(name="Rome", handoff_description="Answers questions on Rome.", output_type=Weather)
    settings = ModelSettings(tool_choice="transfer_to_rome", parallel_tool_calls=False)
    guide: Agent[None] = Agent(name="Guide", instructions="Hand off.", handoffs=[rome], model_settings=settings)
    result = await Runner.run(guide, "Is it sunny in Rome?", run_config=config, max_turns=2)
    assert result.last_agent.name == "Rome"
    assert isinstance(result.final_output, Weather)


async def test_an_agents_answer_is_streamed(config: RunConfig) -> None:
    result = Runner.run_streamed(Agent(name="Guide", output_type=Weather), "Is it sunny in Paris?", run_config=config)
    deltas = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert len(deltas) > 2
    assert Weather.model_validate_json("".join(deltas)) == result.final_output


async def test_an_agent_continues_what_the_server_stores(worker_address: str, tmp_path: Path) -> None:
    alias = f"{get_default_model()}={SMOLLM2}"
    with servers.sidecar(worker_address, "--model-alias", alias, "--store", f"sqlite:///{tmp_path}/store.db") as (
        _,
        url,
    ):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            config = RunConfig(model_provider=OpenAIProvider(openai_client=client), tracing_disabled=True)
            agent = Agent(name="Guide", instructions="Be brief.", output_type=Weather)
            first = await Runner.run(agent, "The weather in Paris?", run_config=config)
            second = await Runner.run(
                agent, "And in Rome?", previous_response_id=first.last_response_id, run_config=config
            )
            assert second.last_response_id
            pages = client.responses.input_items.list(second.last_response_id, order="asc")
            assert [item.role async for item in pages if item.type == "message"] == ["user", "assistant", "user"]
            session = OpenAIConversationsSession(openai_client=client)
            for text in ("The weather in Paris?", "And in Rome?"):
                await Runner.run(agent, text, session=session, run_config=config)
            assert [item.get("role") for item in await session.get_items()] == ["user", "assistant"] * 2
            await session.pop_item()
            assert len(await session.get_items()) == 3
            await session.clear_session()


# ---- pydantic-ai


@pytest.fixture
def responses_model(client: openai.AsyncOpenAI) -> Model:
    return OpenAIResponsesModel(SMOLLM2, provider=PydanticOpenAIProvider(openai_client=client))


@pytest.fixture
async def messages_model(url: str) -> AsyncIterator[Model]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield AnthropicModel(SMOLLM2, provider=AnthropicProvider(anthropic_client=client))


@pytest.fixture(params=["responses", "messages"])
def model(request: pytest.FixtureRequest) -> Model:
    model: Model = request.getfixturevalue(f"{request.param}_model")
    return model


async def test_pydantic_ai_gets_its_type_through_a_tool(model: Model) -> None:
    agent = PydanticAgent(model, output_type=Weather, instructions="Be brief.")
    result = await agent.run("Is it sunny in Paris?", model_settings=PydanticSettings(parallel_tool_calls=False))
    assert isinstance(result.output, Weather)
    assert result.usage.output_tokens > 0


async def test_pydantic_ai_gets_its_type_through_a_schema(responses_model: Model) -> None:
    agent = PydanticAgent(responses_model, output_type=NativeOutput(Weather))
    assert isinstance((await agent.run("Is it sunny in Paris?")).output, Weather)


async def test_pydantic_ai_continues_a_conversation(model: Model) -> None:
    agent = PydanticAgent(model, system_prompt="Be brief.")
    limit = PydanticSettings(max_tokens=24)
    first = await agent.run("Name three colours.", model_settings=limit)
    second = await agent.run("Why?", message_history=first.all_messages(), model_settings=limit)
    assert second.output


async def test_pydantic_ai_streams_text(model: Model) -> None:
    agent = PydanticAgent(model)
    async with agent.run_stream("Name three colours.", model_settings=PydanticSettings(max_tokens=24)) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 2
    assert "".join(pieces) == await result.get_output()
