"""The newest `openai` package with the whole pair."""

import asyncio
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture
def client(pair: Pair) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def exact_client(exact_pair: Pair) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{exact_pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [SMOLLM2, GEMMA3]
    assert client.models.retrieve("llamacpp").id == SMOLLM2
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_a_completion_has_the_default_limit(client: openai.OpenAI) -> None:
    completion = client.completions.create(model=SMOLLM2, prompt="The sky is", temperature=0)
    assert completion.object == "text_completion"
    assert completion.model == SMOLLM2
    assert completion.choices[0].text
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 16, "this is the API's default"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 16


def test_completions_of_many_prompts_and_choices_keep_their_order(exact_client: openai.OpenAI) -> None:
    prompts = ["The capital of France is", "Two plus two is"]
    completion = exact_client.completions.create(
        model=SMOLLM2, prompt=prompts, n=2, max_tokens=6, temperature=0.001, stop=["\n"], seed=1
    )
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert (
        completion.choices[0].text
        == completion.choices[1].text
        != completion.choices[2].text
        == completion.choices[3].text
    )
    streamed = [""] * 4
    for chunk in exact_client.completions.create(
        model=SMOLLM2, prompt=prompts, n=2, max_tokens=6, temperature=0.001, stop=["\n"], seed=1, stream=True
    ):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == [choice.text for choice in completion.choices]


def test_token_ids_are_prompts(client: openai.OpenAI) -> None:
    completion = client.completions.create(model=SMOLLM2, prompt=[[504, 6376, 314], [19556]], max_tokens=2)
    assert len(completion.choices) == 2
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 4


def test_a_chat_is_answered_within_its_limit(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model=SMOLLM2, messages=MESSAGES, temperature=0, max_completion_tokens=12, seed=3, user="me"
    )
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].message.content
    assert completion.usage is not None
    assert completion.usage.completion_tokens <= 12


def test_a_chat_without_a_limit_ends_by_itself(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model=SMOLLM2, messages=[{"role": "user", "content": "Answer with one word: yes or no?"}], temperature=0
    )
    assert completion.choices[0].finish_reason == "stop"


def test_a_chat_stream_is_the_whole_response_in_pieces(exact_client: openai.OpenAI) -> None:
    request = {"model": SMOLLM2, "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
    whole = exact_client.chat.completions.create(**request)  # type: ignore[call-overload]
    chunks = list(
        exact_client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_model_without_a_template_chats(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model=GEMMA3, messages=MESSAGES, max_tokens=4)
    assert completion.model == GEMMA3
    assert completion.usage is not None
    assert completion.usage.completion_tokens > 0


async def test_many_async_streams_at_once_are_answered(pair: Pair) -> None:
    async with openai.AsyncOpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:

        async def stream(i: int) -> str:
            chunks = await client.chat.completions.create(
                model="llamacpp",
                messages=[{"role": "user", "content": f"Say the number {i}."}],
                temperature=0,
                max_tokens=10,
                stream=True,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

        texts = await asyncio.gather(*(stream(i) for i in range(24)))
    assert all(texts)


def test_errors_become_the_sdks_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=SMOLLM2, prompt="word " * 3000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError) as out_of_range:
        client.chat.completions.create(model=SMOLLM2, messages=MESSAGES, temperature=3)
    assert out_of_range.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(
            model=SMOLLM2,
            messages=MESSAGES,
            tools=[{"type": "function", "function": {"name": "f g"}}],
        )
    assert tools.value.param == "tools[0].function.name"
    with pytest.raises(openai.BadRequestError) as in_stream:
        client.chat.completions.create(
            model=SMOLLM2,
            messages=[{"role": "user", "content": "word " * 3000}],
            stream=True,
        )
    assert (in_stream.value.code, in_stream.value.param) == ("context_length_exceeded", "messages")
