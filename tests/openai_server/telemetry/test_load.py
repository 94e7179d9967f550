"""The load gauges, and the metrics under vLLM's names, from the same values."""

import pytest

from openai_server.config import METRICS_NAMES
from openai_server.core.load import BackendLoad
from openai_server.core.request_context import RequestContext
from openai_server.core.usage import Usage
from openai_server.telemetry import load
from openai_server.telemetry.metrics import VLLM, Metrics
from tests.wire.exposition import Scrape


def answered(
    endpoint: str, operation: str, model: str = "m", *, status: int = 200, cached: int | None = 2
) -> RequestContext:
    """A stream that took four seconds: one to its first token, and one for each of the three others."""
    context = RequestContext(endpoint=endpoint, operation=operation, model=model, status=status, stream=True)
    if status == 200:
        context.usage, context.finish_reasons = Usage(prompt=10, completion=4, cached=cached), ["stop"]
        context.first_token, context.ended = 1.0, 4.0
    return context


def test_a_request_counts_once_wherever_it_is() -> None:
    metrics = Metrics()
    metrics.queued(2)
    metrics.admitted(9)
    metrics.unreported(4)
    scrape = Scrape(metrics.text(BackendLoad(waiting=3, running=5, kv_cells=200, kv_cells_running=50)))
    assert scrape.value(load.QUEUED) == 2 + 3
    assert scrape.value(load.RUNNING) == 4 + 5
    assert scrape.value(load.KV_USAGE) == 0.25
    for name in load.MEANINGS:
        assert scrape.series(name) == [{}], "pickers read the first series only"


def test_unknown_figures_are_absent() -> None:
    assert not set(load.MEANINGS) & Scrape(Metrics().text(None)).names
    without_cells = Scrape(Metrics().text(BackendLoad(running=1))).names
    assert set(load.MEANINGS) & without_cells == {load.QUEUED, load.RUNNING}


def test_the_names_are_those_of_the_option() -> None:
    assert METRICS_NAMES == (VLLM,)
    assert not [name for name in Scrape(Metrics().text(BackendLoad(), "m")).names if name.startswith("vllm:")]


def test_the_gauges_of_vllm_have_one_series() -> None:
    scrape = Scrape(Metrics([VLLM]).text(BackendLoad(3, 5, 330, 66), "m"))
    for name, value in {"num_requests_waiting": 3, "num_requests_running": 5, "kv_cache_usage_perc": 0.2}.items():
        assert scrape.series(f"vllm:{name}") == [{"model_name": "m"}]
        assert scrape.value(f"vllm:{name}") == value
    assert scrape.series("vllm:cache_config_info") == [{"block_size": "16", "num_gpu_blocks": "20"}]


def test_without_a_model_or_a_report_they_are_absent() -> None:
    for text in (Metrics([VLLM]).text(BackendLoad(), ""), Metrics([VLLM]).text(None, "m")):
        assert not {"vllm:num_requests_waiting", "vllm:cache_config_info"} & Scrape(text).names


def test_the_counters_of_vllm_are_sums_over_endpoints() -> None:
    metrics = Metrics([VLLM])
    metrics.end(
        [
            answered("/v1/chat/completions", "chat"),
            answered("/v1/messages", "chat"),
            answered("/v1/completions", "text_completion"),
            answered("/v1/completions", "text_completion", "other"),
            answered("/v1/completions", "text_completion", status=400),
            answered("/v1/embeddings", "embeddings", cached=None),
        ]
    )
    scrape = Scrape(metrics.text(BackendLoad(), "m"))

    def value(name: str, **labels: str) -> float:
        return scrape.value(f"vllm:{name}", model_name="m", **labels)

    assert value("request_success_total") == 3
    assert (value("request_prompt_tokens_sum"), value("request_prompt_tokens_count")) == (30, 3)
    assert (value("request_generation_tokens_sum"), value("request_generation_tokens_count")) == (12, 3)
    assert value("request_prompt_tokens_bucket", le="+Inf") == value("request_prompt_tokens_bucket", le="16.0") == 3
    assert value("request_prompt_tokens_bucket", le="4.0") == 0
    assert (value("time_to_first_token_seconds_sum"), value("time_to_first_token_seconds_count")) == (3, 3)
    assert (value("time_per_output_token_seconds_sum"), value("time_per_output_token_seconds_count")) == (3, 3)
    assert (value("prefix_cache_queries_total"), value("prefix_cache_hits_total")) == (30, 6)
    assert scrape.value("vllm:request_success_total", model_name="other") == 1


@pytest.mark.parametrize(("cached", "known"), [(None, False), (0, True)])
def test_cached_tokens_that_no_backend_reports_are_not_a_miss(cached: int | None, known: bool) -> None:
    metrics = Metrics([VLLM])
    metrics.end([answered("/v1/completions", "text_completion", cached=cached)])
    names = Scrape(metrics.text(BackendLoad(), "m")).names
    for name in (
        "openai_server_cached_tokens_total",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
    ):
        assert (name in names) == known
