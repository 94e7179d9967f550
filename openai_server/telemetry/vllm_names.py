"""vLLM's names for this server's metrics, which endpoint pickers and autoscalers read by default. PURE.

Every value is derived from a metric of our own at the scrape. Metrics that this server can't derive are left out.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.samples import Sample

from openai_server.telemetry import load

BLOCK_SIZE = 16
"""Tokens of a block. Workers allocate single tokens, but pickers compare prompts block by block, at most some hundred
blocks of each. 16 is the size that they assume for vLLM."""
GENERATIONS = ("chat", "text_completion")
"""Operations that generate text."""
K = TypeVar("K")
Samples = Mapping[str, list[Sample]]
"""All samples, by name. A name without samples has an empty list."""
_OPERATION, _MODEL, _TOKENS = "gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type"
_DURATION, _USAGE = "gen_ai_server_request_duration_seconds", "gen_ai_client_token_usage"
_PROMPT, _CACHED = "openai_server_prompt_tokens_total", "openai_server_cached_tokens_total"

GAUGES = {
    "num_requests_waiting": load.QUEUED,
    "num_requests_running": load.RUNNING,
    "kv_cache_usage_perc": load.KV_USAGE,
}
"""vLLM's name → source."""
HISTOGRAMS: Mapping[str, tuple[str, str]] = {
    "request_prompt_tokens": (_USAGE, "input"),
    "request_generation_tokens": (_USAGE, "output"),
    "time_to_first_token_seconds": ("gen_ai_server_time_to_first_token_seconds", ""),
    "time_per_output_token_seconds": ("gen_ai_server_time_per_output_token_seconds", ""),
}
"""vLLM's name → source, and the type of its tokens."""


def families(own: Iterable[Metric], model: str) -> Iterator[Metric]:
    """`own` are this server's metrics, those of `load.py` included. `model` is the default model, empty if unknown."""
    samples = defaultdict[str, list[Sample]](list)
    for family in own:
        for sample in family.samples:
            samples[sample.name].append(sample)
    yield from _gauges(samples, model)
    yield _success(samples)
    for name, (source, tokens) in HISTOGRAMS.items():
        yield _histogram(samples, name, source, tokens)
    yield from _prefix_cache(samples)


def _gauges(samples: Samples, model: str) -> Iterator[Metric]:
    """One series each, since pickers read only the first one: the load of all models, with the default one's name."""
    for name, source in GAUGES.items():
        for sample in samples[source] if model else ():
            gauge = GaugeMetricFamily(f"vllm:{name}", f"The same as {source}.", labels=["model_name"])
            gauge.add_metric([model], sample.value)
            yield gauge
    for sample in samples[load.KV_CELLS]:
        info = GaugeMetricFamily(
            "vllm:cache_config_info",
            f"Always 1; {load.KV_CELLS} in blocks of {BLOCK_SIZE} tokens.",
            labels=["block_size", "num_gpu_blocks"],
        )
        info.add_metric([str(BLOCK_SIZE), str(int(sample.value) // BLOCK_SIZE)], 1)
        yield info


def _success(samples: Samples) -> Metric:
    """Without vLLM's label `finished_reason`, because our histogram has no reasons."""
    succeeded = (sample for sample in _generations(samples, f"{_DURATION}_count") if not sample.labels["error_type"])
    by_model = _sums(succeeded, lambda labels: labels[_MODEL])
    return _counter("request_success", f"Requests without an error, by {_DURATION}.", by_model)


def _histogram(samples: Samples, name: str, source: str, tokens: str) -> Metric:
    metric = Metric(f"vllm:{name}", f"{source} of all requests that generate text.", "histogram")
    for suffix in ("_bucket", "_sum", "_count"):
        matching = (
            sample for sample in _generations(samples, source + suffix) if sample.labels.get(_TOKENS, "") == tokens
        )
        for (model, bound), value in _sums(matching, lambda labels: (labels[_MODEL], labels.get("le", ""))).items():
            metric.add_sample(f"vllm:{name}{suffix}", {"model_name": model} | ({"le": bound} if bound else {}), value)
    return metric


def _prefix_cache(samples: Samples) -> Iterator[Metric]:
    """Only where backends report cached tokens: elsewhere, whether a prompt was cached is unknown."""
    hits = samples[_CACHED]
    reported = {tuple(sample.labels.items()) for sample in hits}
    queries = (sample for sample in samples[_PROMPT] if tuple(sample.labels.items()) in reported)
    for name, source, counted in (("queries", _PROMPT, queries), ("hits", _CACHED, hits)):
        yield _counter(
            f"prefix_cache_{name}", f"{source} of all endpoints.", _sums(counted, lambda labels: labels["model"])
        )


def _counter(name: str, meaning: str, by_model: Mapping[str, float]) -> Metric:
    counter = CounterMetricFamily(f"vllm:{name}", meaning, labels=["model_name"])
    for model, value in by_model.items():
        counter.add_metric([model], value)
    return counter


def _generations(samples: Samples, name: str) -> Iterator[Sample]:
    return (sample for sample in samples[name] if sample.labels[_OPERATION] in GENERATIONS)


def _sums(samples: Iterable[Sample], key: Callable[[Mapping[str, str]], K]) -> dict[K, float]:
    """The sums of the values with the same key."""
    sums = dict[K, float]()
    for sample in samples:
        found = key(sample.labels)
        sums[found] = sums.get(found, 0) + sample.value
    return sums
