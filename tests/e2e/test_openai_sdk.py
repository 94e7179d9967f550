"""The newest `openai` package against the whole pair."""

import asyncio

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture
def client(pair: Pair) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def exact_client(exact_pair: Pair) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{exact_pair.url}/v1", api_key="none", max_retries=0)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [SMOLLM2, GEMMA3]
    assert client.models.retrieve("llamacpp").id == SMOLLM2
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=SMOLLM2, prompt="The sky is", temperature=0)
    assert answer.object == "text_completion"
    assert answer.model == SMOLLM2
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16, "the API's default"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16


def test_completions_of_many_prompts_and_choices_keep_their_order(exact_client: openai.OpenAI) -> None:
    prompts = ["The capital of France is", "Two plus two is"]
    answer = exact_client.completions.create(
        model=SMOLLM2, prompt=prompts, n=2, max_tokens=6, temperature=0.001, stop=["\n"], seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text != answer.choices[2].text == answer.choices[3].text
    streamed = [""] * 4
    for chunk in exact_client.completions.create(
        model=SMOLLM2, prompt=prompts, n=2, max_tokens=6, temperature=0.001, stop=["\n"], seed=1, stream=True
    ):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == [choice.text for choice in answer.choices]


def test_token_id_prompts(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=SMOLLM2, prompt=[[504, 6376, 314], [19556]], max_tokens=2)
    assert len(answer.choices) == 2
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=SMOLLM2, messages=MESSAGES, temperature=0, max_completion_tokens=12, seed=3, user="me"
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 12


def test_chat_without_a_limit_ends_by_itself(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=SMOLLM2, messages=[{"role": "user", "content": "Answer with one word: yes or no?"}], temperature=0
    )
    assert answer.choices[0].finish_reason == "stop"


def test_a_chat_stream_is_the_answer_in_pieces(exact_client: openai.OpenAI) -> None:
    asked = {"model": SMOLLM2, "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
    whole = exact_client.chat.completions.create(**asked)  # type: ignore[call-overload]
    chunks = list(
        exact_client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
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
    answer = client.chat.completions.create(model=GEMMA3, messages=MESSAGES, max_tokens=4)
    assert answer.model == GEMMA3
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


async def test_many_async_streams_at_once(pair: Pair) -> None:
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

        answers = await asyncio.gather(*(stream(i) for i in range(24)))
    assert all(answers)


def test_errors_are_the_sdks_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=SMOLLM2, prompt="word " * 3000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError) as range_:
        client.chat.completions.create(model=SMOLLM2, messages=MESSAGES, temperature=3)
    assert range_.value.param == "temperature"
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
