"""llama-server's times and progress with real models: they fit the counts, and the time that the client measured."""

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair
from tests.e2e.messages import LONG_STORY

TIMED = {"timings_per_token": True}
BOTH = {**TIMED, "return_progress": True}


@pytest.fixture
def client(pair: Pair) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def check(timings: dict[str, Any], usage: Any, seconds: float) -> None:
    """`seconds`: duration of the request, measured by the client."""
    assert timings["prompt_n"] + timings["cache_n"] == usage.prompt_tokens
    assert timings["cache_n"] == usage.prompt_tokens_details.cached_tokens
    assert timings["predicted_n"] == usage.completion_tokens
    assert 0 < timings["prompt_ms"] + timings["predicted_ms"] < seconds * 1000
    assert timings["prompt_per_second"] == pytest.approx(1000 * timings["prompt_n"] / timings["prompt_ms"], rel=0.01)


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
@pytest.mark.parametrize("n", [1, 2])
def test_a_whole_response_has_its_times(client: openai.OpenAI, model: str, n: int) -> None:
    started = time.monotonic()
    completion = client.completions.create(model=model, prompt=LONG_STORY, max_tokens=8, n=n, extra_body=TIMED)
    seconds = time.monotonic() - started
    timings = completion.model_extra["timings"] if completion.model_extra else {}
    check(timings, completion.usage, seconds)
    n_steps = timings["predicted_n"] - n
    assert timings["predicted_per_token_ms"] == pytest.approx(timings["predicted_ms"] / n_steps, rel=0.01)
    plain = client.completions.create(model=model, prompt=LONG_STORY, max_tokens=8, n=n)
    assert "timings" not in (plain.model_extra or {})


def test_a_stream_has_progress_and_then_times(client: openai.OpenAI) -> None:
    started = time.monotonic()
    chunks = list(
        client.chat.completions.create(
            model=SMOLLM2,
            messages=[{"role": "user", "content": f"{time.time_ns()} " + LONG_STORY}],  # nothing is cached
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=BOTH,
        )
    )
    seconds = time.monotonic() - started
    extras = [chunk.model_extra or {} for chunk in chunks]
    steps = [extra["prompt_progress"] for extra in extras if "prompt_progress" in extra]
    usage = chunks[-1].usage
    assert usage is not None
    assert {step["total"] for step in steps} == {usage.prompt_tokens}
    assert steps[0]["processed"] == steps[0]["cache"]
    processed = [step["processed"] for step in steps]
    assert processed == sorted(set(processed))
    assert processed[-1] == usage.prompt_tokens
    times = [extra["timings"] for extra in extras if "timings" in extra]
    counts = [timings["predicted_n"] for timings in times]
    assert counts == sorted(counts)
    check(times[-1], usage, seconds)
    assert steps[-1]["time_ms"] <= times[-1]["prompt_ms"] + 1
    assert [bool(extra) for extra in extras[: len(steps)]] == [True] * len(steps)


def test_a_cached_prompt_has_little_to_read(client: openai.OpenAI) -> None:
    def last_progress() -> Any:
        chunks = client.completions.create(
            model=SMOLLM2, prompt=LONG_STORY, max_tokens=1, stream=True, extra_body={"return_progress": True}
        )
        return [chunk.model_extra["prompt_progress"] for chunk in chunks if chunk.model_extra][-1]

    last_progress()
    again = last_progress()
    assert again["cache"] == again["total"] - 1
    assert again["processed"] == again["total"]
