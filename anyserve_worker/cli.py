"""Options of the command line, each also an environment variable; one list for both commands."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from anyserve_common import addresses, logs, tracing
from anyserve_worker import __version__
from anyserve_worker.core.options import (
    CACHE_TYPES,
    DEFAULT_MAX_CONTEXT,
    FLASH_ATTENTION,
    KEPT_CELLS,
    MAX_DRAFT,
    POOLINGS,
    SHORT_PROMPT,
    SLOTS_PER_KEPT,
    ModelOptions,
)
from anyserve_worker.scheduling.step_pace import MIN_STEP_TOKENS, STEP_SECONDS
from anyserve_worker.service.server_options import ServerOptions
from anyserve_worker.service.tls import TLS
from anyserve_worker.threads.processors import detect_cpus
from protos import contract

ENV_PREFIX = "ANYSERVE_WORKER"
DEFAULT_PORT = 8000
_DEFAULTS = ModelOptions()


def name_of_file(path: str) -> str:
    """The model's name where only its file is named. Empty if the path has no file name."""
    return re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", Path(path).name, flags=re.IGNORECASE)


def parse_models(values: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """`name=path`, or a path whose file name becomes the model's name. Raises click.BadParameter."""
    models: dict[str, Path] = {}
    for value in values:
        # A path that exists may contain "=" itself.
        name, separator, path = ("", "", value) if os.path.exists(value) else value.partition("=")
        if not separator:
            name, path = name_of_file(value), value
        if not name or not path:
            raise click.BadParameter(f"{value!r} is neither a path nor name=path", param_hint="--model")
        if not name.isprintable():
            raise click.BadParameter(f"the name {name!r} has unprintable characters", param_hint="--model")
        if name in models:
            raise click.BadParameter(f"two models are called {name!r}", param_hint="--model")
        models[name] = Path(path)
    return tuple(models.items())


def _hosts(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """One value, such as an environment variable's, may hold several hosts, separated by commas or spaces."""
    hosts = tuple(host for value in values for host in re.split(r"[,\s]+", value) if host)
    if values and not hosts:
        raise click.BadParameter("it is empty.")
    return hosts


def _option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    attributes.setdefault("show_default", True)
    kind = attributes.get("type")
    if kind is int or isinstance(kind, click.IntRange):
        attributes["metavar"] = "N"
    elif isinstance(kind, click.FloatRange):
        attributes["metavar"] = "SECONDS"
    return click.option(*names, show_envvar=True, **attributes)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_at_least_1 = click.IntRange(min=1)
_or_auto = click.IntRange(min=0)

_OPTIONS = (
    _option(
        "--host",
        default=addresses.LOOPBACK,
        multiple=True,
        callback=_hosts,
        metavar="ADDRESS",
        help="Address or name to listen on; repeatable. `::` and 0.0.0.0 are every address, IPv4 and IPv6. An address "
        "family that the machine lacks is left out.",
    ),
    _option(
        "--port",
        default=DEFAULT_PORT,
        type=click.IntRange(0, 65535),
        help="Port of the gRPC server, the same on each address; 0: any.",
    ),
    _option(
        "--n-ctx",
        default=_DEFAULTS.n_ctx,
        type=_or_auto,
        help=f"Context length of one sequence, in tokens. 0: the model's own, at most {DEFAULT_MAX_CONTEXT}.",
    ),
    _option(
        "--kv-cells",
        default=_DEFAULTS.kv_cells,
        type=_or_auto,
        help="KV cells (tokens) that all sequences and cached prefixes share. Up to "
        f"{KEPT_CELLS} of them are kept for prompts of at most {SHORT_PROMPT} tokens, if there are so many more than "
        f"--n-ctx. 0: --n-ctx and a quarter more, at most {KEPT_CELLS}.",
    ),
    _option(
        "--parallel",
        default=_DEFAULTS.parallel,
        type=click.IntRange(1, 256),
        help=f"Most sequences computed at once. If it is not 1, one more for every {SLOTS_PER_KEPT}, at least one, is "
        f"kept for prompts of at most {SHORT_PROMPT} tokens.",
    ),
    _option(
        "--cached-sequences",
        default=_DEFAULTS.cached_sequences,
        type=click.IntRange(0, 255),
        help="Finished sequences whose prefix may be kept for reuse.",
    ),
    _option(
        "--prefix-cache/--no-prefix-cache",
        default=_DEFAULTS.prefix_cache,
        help="Compute a prefix that requests share only once. Without it, with --parallel 1 and a fixed number of "
        "--threads, equal requests get equal answers to the bit.",
    ),
    _option(
        "--max-queue",
        default=_DEFAULTS.max_queue,
        type=_or_auto,
        help="Requests that may wait beyond --parallel; more get RESOURCE_EXHAUSTED.",
    ),
    _option(
        "--n-batch",
        default=_DEFAULTS.n_batch,
        type=_at_least_1,
        help=f"Most tokens in one step. A step that would take longer than {STEP_SECONDS:g} s has fewer, at least "
        f"{MIN_STEP_TOKENS}, unless --parallel is 1.",
    ),
    _option("--n-ubatch", default=_DEFAULTS.n_ubatch, type=_at_least_1, help="Most tokens llama.cpp computes at once."),
    _option(
        "--prefill-chunk",
        default=_DEFAULTS.prefill_chunk,
        type=_at_least_1,
        help="Most prompt tokens in a step while others are generating: how long a new prompt may hold them up.",
    ),
    _option(
        "--threads",
        default=_DEFAULTS.threads,
        type=_or_auto,
        help="Threads for generation. 0: as many as make steps fast, within the CPU affinity and the cgroup's quota.",
    ),
    _option(
        "--threads-batch",
        default=_DEFAULTS.threads_batch,
        type=_or_auto,
        help="Threads for steps with prompts. 0: as --threads.",
    ),
    _option(
        "--n-gpu-layers", default=_DEFAULTS.n_gpu_layers, type=int, help="Layers to put on a GPU, if any. -1: all."
    ),
    _option(
        "--flash-attention",
        default=_DEFAULTS.flash_attention,
        type=click.Choice(FLASH_ATTENTION),
        help="auto: where the model and the device can.",
    ),
    _option("--cache-type-k", default=_DEFAULTS.cache_type_k, type=click.Choice(CACHE_TYPES), help="Type of K cells."),
    _option("--cache-type-v", default=_DEFAULTS.cache_type_v, type=click.Choice(CACHE_TYPES), help="Type of V cells."),
    _option("--mmap/--no-mmap", default=_DEFAULTS.mmap, help="Map the model file instead of reading it."),
    _option("--mlock", is_flag=True, default=_DEFAULTS.mlock, help="Keep the model in RAM."),
    _option(
        "--swa-full/--no-swa-full",
        default=_DEFAULTS.swa_full,
        help="Models with a sliding window: keep all cells, so that prefixes stay reusable; takes more memory.",
    ),
    _option(
        "--prompt-lookup",
        default=_DEFAULTS.prompt_lookup,
        type=click.IntRange(0, MAX_DRAFT),
        help="Most tokens that a step drafts ahead, from where the last ones occurred before: answers that repeat text "
        "come in fewer steps. 0: off.",
    ),
    _option(
        "--pooling",
        default=_DEFAULTS.pooling,
        type=click.Choice(POOLINGS),
        help="How embeddings are made of the vectors of all tokens. auto: the model's own way, or else the mean.",
    ),
    _option("--tls-cert", type=_FILE, metavar="FILE", help="Certificate chain (PEM): serve over TLS."),
    _option("--tls-key", type=_FILE, metavar="FILE", help="Its private key (PEM). Files that change are read again."),
    _option(
        "--tls-client-ca",
        type=_FILE,
        metavar="FILE",
        help="Certificate authorities (PEM); clients must show a certificate of theirs.",
    ),
    _option(
        "--keepalive-time",
        default=10.0,
        type=click.FloatRange(min=0.1),
        help="Silence on a connection before the client is pinged, and then again until it counts as gone.",
    ),
    _option(
        "--max-connections",
        default=1024,
        type=_at_least_1,
        help="Open connections to an address; one more is closed at once. Fewer where the limit of open files is "
        "lower.",
    ),
    _option(
        "--handshake-timeout",
        default=10.0,
        type=click.FloatRange(min=0.1),
        help="Longest time from a new connection to its first HTTP/2 frame, with TLS in between; then it is closed.",
    ),
    _option(
        "--drain-delay",
        default=0.0,
        type=click.FloatRange(min=0),
        help="Seconds after SIGTERM in which it is not ready any more, but takes requests of who has not noticed yet.",
    ),
    _option(
        "--drain-timeout",
        default=25.0,
        type=click.FloatRange(min=0),
        help="Seconds that running requests get to finish after SIGTERM.",
    ),
    _option(
        "--metrics-port",
        default=None,
        type=click.IntRange(0, 65535),
        help="Port of an HTTP server for GET /metrics, in Prometheus' format; 0: any. Absent: none.",
    ),
    _option(
        "--metrics-host",
        multiple=True,
        callback=_hosts,
        metavar="ADDRESS",
        help="Address or name for it; repeatable. 0.0.0.0 is every IPv4 address, `::` IPv6's too. Absent: as --host.",
    ),
    _option(
        "--log-level",
        default="info",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Least to log.",
    ),
    _option(
        "--access-log/--no-access-log",
        default=True,
        help="One line a generation, with ids, tokens and times; never prompts or answers.",
    ),
    _option("--log-format", default=logs.TEXT, type=click.Choice(logs.FORMATS), help="Lines to read, or JSON objects."),
    _option(
        "--tracing",
        default=tracing.AUTO,
        type=click.Choice(tracing.CHOICES),
        help="OpenTelemetry spans of queue, prefill and decode. auto: if OTEL_EXPORTER_OTLP_ENDPOINT says where to, "
        "and the extra `otel` is installed.",
    ),
)


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that `python -m anyserve_worker` and `anyserve serve` share, in the order of the list."""
    for option in reversed((*_OPTIONS, click.version_option(__version__))):
        command = option(command)
    return command


def _tls(values: dict[str, Any]) -> TLS | None:
    certificate, key, client_ca = (values[name] for name in ("tls_cert", "tls_key", "tls_client_ca"))
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if certificate is None or key is None:
        if client_ca:
            raise click.UsageError("--tls-client-ca needs --tls-cert and --tls-key")
        return None
    return TLS(certificate, key, client_ca)


def build(models: tuple[tuple[str, Path], ...], values: dict[str, Any]) -> tuple[ServerOptions, ModelOptions]:
    """From the values of `common_options`. Raises click.UsageError."""
    for name, _ in models:
        if name in contract.ANYSERVE_CAPABILITIES:
            raise click.UsageError(f"a model cannot be called {name!r}: that name is part of AnyServe's protocol")
    if values["parallel"] > values["n_batch"]:
        raise click.UsageError("--parallel must not be larger than --n-batch: a step takes one token of each sequence")
    model_options = ModelOptions(**{f.name: values[f.name] for f in fields(ModelOptions)})
    if 0 < model_options.kv_cells < model_options.n_ctx:
        raise click.UsageError("--kv-cells must not be smaller than --n-ctx")
    server_options = ServerOptions(
        models=models,
        hosts=values["host"],
        port=values["port"],
        drain_timeout=values["drain_timeout"],
        log_level=values["log_level"],
        threads=detect_cpus(),
        drain_delay=values["drain_delay"],
        keepalive_time=values["keepalive_time"],
        max_connections=values["max_connections"],
        handshake_timeout=values["handshake_timeout"],
        tls=_tls(values),
        metrics_hosts=values["metrics_host"] or values["host"],
        metrics_port=values["metrics_port"],
        access_log=values["access_log"],
        tracing=values["tracing"],
    )
    return server_options, model_options
