"""Command-line options, shared by both commands. Each one is also an environment variable."""

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from anyserve_common import addresses, logs, tracing
from anyserve_common.command_line import OptionMaker, hosts
from anyserve_common.pem_files import PEMFiles
from anyserve_worker.core.options import (
    CACHE_TYPES,
    DEFAULT_MAX_CONTEXT,
    FLASH_ATTENTION,
    MAX_DRAFT,
    MAX_RESERVED_CELLS,
    POOLINGS,
    SHORT_PROMPT,
    SLOTS_PER_RESERVED_SLOT,
    ModelOptions,
)
from anyserve_worker.scheduling.background import MAX_GROWTH, SHORT_STEP_SECONDS
from anyserve_worker.scheduling.step_pace import MIN_STEP_TOKENS, STEP_SECONDS
from anyserve_worker.service.server_options import ServerOptions
from anyserve_worker.threads.processors import detect_cpus
from protos import contract

ENV_PREFIX = "ANYSERVE_WORKER"
DEFAULT_PORT = 8000


def name_of_file(path: str) -> str:
    """Returns the default name of the model in this file, or an empty string if the path has no file name."""
    return re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", Path(path).name, flags=re.IGNORECASE)


def parse_models(values: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """Parses each value: `name=path`, or a path whose file name becomes the model's name. Raises click.BadParameter."""
    models: dict[str, Path] = {}
    for value in values:
        # An existing path may itself contain "=".
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


MODEL_OPTION_NAMES = frozenset(field.name for field in fields(ModelOptions))
"""Options of GGUF models."""

_option = OptionMaker({field.name: field.default for field in fields(ModelOptions)})
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_at_least_1 = click.IntRange(min=1)
_at_least_0 = click.IntRange(min=0)

OPTIONS = (
    _option(
        "--host",
        default=addresses.LOOPBACK,
        multiple=True,
        callback=hosts,
        metavar="ADDRESS",
        help="Address or name to listen on; repeatable. `::` and 0.0.0.0 both mean all IPv4 and IPv6 addresses. An "
        "address family that the machine lacks is skipped.",
    ),
    _option(
        "--port",
        default=DEFAULT_PORT,
        type=click.IntRange(0, 65535),
        help="Port of the gRPC server, the same on every address. 0: any free port.",
    ),
    _option(
        "--n-ctx",
        type=_at_least_0,
        help=f"Context length of one sequence, in tokens. 0: the model's own, at most {DEFAULT_MAX_CONTEXT}.",
    ),
    _option(
        "--kv-cells",
        type=_at_least_0,
        help="KV cells (one per token) shared by all sequences and cached prefixes. Up to "
        f"{MAX_RESERVED_CELLS} of the cells beyond --n-ctx are reserved for prompts of at most {SHORT_PROMPT} tokens. "
        f"0: --n-ctx plus a quarter of it, but at most {MAX_RESERVED_CELLS} more.",
    ),
    _option(
        "--parallel",
        type=click.IntRange(1, 256),
        help=f"Maximum number of sequences computed at once. Above 1, one extra slot per {SLOTS_PER_RESERVED_SLOT} (at "
        f"least one) is reserved for prompts of at most {SHORT_PROMPT} tokens.",
    ),
    _option(
        "--cached-sequences",
        type=click.IntRange(0, 255),
        help="Maximum number of finished sequences to keep for prefix reuse.",
    ),
    _option(
        "--prefix-cache/--no-prefix-cache",
        help="Compute a prefix that requests share only once. With --no-prefix-cache, --parallel 1 and a fixed number "
        "of --threads, identical requests get bit-identical answers.",
    ),
    _option(
        "--max-queue",
        type=_at_least_0,
        help="Requests that may wait beyond --parallel; further ones are rejected with RESOURCE_EXHAUSTED.",
    ),
    _option(
        "--n-batch",
        type=_at_least_1,
        help=f"Maximum tokens in one step. A step that would take longer than {STEP_SECONDS:g} s gets fewer, but at "
        f"least {MIN_STEP_TOKENS}, unless --parallel is 1.",
    ),
    _option(
        "--n-ubatch",
        type=_at_least_1,
        help="Maximum tokens that llama.cpp computes at once.",
    ),
    _option(
        "--prefill-chunk",
        type=_at_least_1,
        help="Maximum prompt tokens in a step while other sequences generate; limits how long a prompt delays them.",
    ),
    _option(
        "--threads",
        type=_at_least_0,
        help="Threads for generation. 0: adjusted by measured step times, within CPU affinity and the cgroup's quota.",
    ),
    _option(
        "--threads-batch",
        type=_at_least_0,
        help="Threads for steps that read prompts. 0: same as --threads.",
    ),
    _option(
        "--n-gpu-layers",
        type=int,
        help="Layers to put on a GPU, if there is one. -1: all.",
    ),
    _option(
        "--flash-attention",
        type=click.Choice(FLASH_ATTENTION),
        help="Use flash attention. auto: if the model and the device support it.",
    ),
    _option("--cache-type-k", type=click.Choice(CACHE_TYPES), help="Data type of K cells."),
    _option("--cache-type-v", type=click.Choice(CACHE_TYPES), help="Data type of V cells."),
    _option("--mmap/--no-mmap", help="Map the model file into memory instead of reading it."),
    _option("--mlock", is_flag=True, help="Lock the model in RAM, so that it is never swapped out."),
    _option(
        "--swa-full/--no-swa-full",
        help="For models with a sliding window: keep all cells, so that prefixes stay reusable. Needs more memory.",
    ),
    _option(
        "--prompt-lookup",
        type=click.IntRange(0, MAX_DRAFT),
        help="Maximum tokens to draft per step, copied from an earlier occurrence of the last tokens. Answers that "
        "repeat text need fewer steps. 0: off.",
    ),
    _option(
        "--background-share",
        type=click.FloatRange(0, 0.5),
        help="Minimum share of the time for background work (requests of a priority from 2³⁰ on, such as lines of "
        f"batches) while there are other requests, in steps of {SHORT_STEP_SECONDS * 1000:g} ms. 0: none. Beyond it, "
        f"background work prolongs no step by more than {MAX_GROWTH:.0%}.",
    ),
    _option(
        "--pooling",
        type=click.Choice(POOLINGS),
        help="Way to compute an embedding from the vectors of all tokens. auto: the model's own, or the mean.",
    ),
    _option("--tls-cert", type=_FILE, metavar="FILE", help="Certificate chain (PEM), to serve over TLS."),
    _option(
        "--tls-key",
        type=_FILE,
        metavar="FILE",
        help="Private key (PEM) of --tls-cert. All three TLS files are reloaded when they change.",
    ),
    _option(
        "--tls-client-ca",
        type=_FILE,
        metavar="FILE",
        help="Certificate authorities (PEM). Clients must present a certificate signed by one of them.",
    ),
    _option(
        "--keepalive-time",
        default=10.0,
        type=click.FloatRange(min=0.1),
        help="Seconds without data on a connection before the client is pinged, and seconds to wait for its "
        "reply before the connection is closed.",
    ),
    _option(
        "--max-connections",
        default=1024,
        type=_at_least_1,
        help="Maximum open connections per address; further ones are closed at once. Lower if the limit on open files "
        "requires it.",
    ),
    _option(
        "--handshake-timeout",
        default=10.0,
        type=click.FloatRange(min=0.1),
        help="Close a new connection that hasn't completed TLS and sent its first HTTP/2 frame within this time.",
    ),
    _option(
        "--drain-delay",
        default=0.0,
        type=click.FloatRange(min=0),
        help="Seconds after SIGTERM to report not-ready but keep accepting requests, so that load balancers can move "
        "away.",
    ),
    _option(
        "--drain-timeout",
        default=25.0,
        type=click.FloatRange(min=0),
        help="Seconds that running requests get to finish, after SIGTERM and --drain-delay.",
    ),
    _option(
        "--metrics-port",
        default=None,
        type=click.IntRange(0, 65535),
        help="Port of an HTTP server for GET /metrics, in Prometheus' format. 0: any free port. Unset: no metrics.",
    ),
    _option(
        "--metrics-host",
        multiple=True,
        callback=hosts,
        metavar="ADDRESS",
        help="Address or name on which to serve metrics; repeatable. 0.0.0.0 means all IPv4 addresses, `::` IPv6 "
        "addresses as well. Unset: same as --host.",
    ),
    _option(
        "--log-level",
        default="info",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Minimum log level.",
    ),
    _option(
        "--access-log/--no-access-log",
        default=True,
        help="Log one line per generation, with ids, token counts and times; never prompts or answers.",
    ),
    _option(
        "--log-format",
        default=logs.TEXT,
        type=click.Choice(logs.FORMATS),
        help="Format of log lines: readable text or JSON objects.",
    ),
    _option(
        "--tracing",
        default=tracing.AUTO,
        type=click.Choice(tracing.CHOICES),
        help="Export OpenTelemetry spans of queue, prefill and decode. auto: if OTEL_EXPORTER_OTLP_ENDPOINT is set and "
        "the extra `otel` is installed.",
    ),
)
"""Options of both `python -m anyserve_worker` and `anyserve serve`."""
SERVER_OPTIONS = tuple(option for option in OPTIONS if option.name not in MODEL_OPTION_NAMES)
"""Those that don't depend on GGUF models."""


def _tls(values: dict[str, Any]) -> PEMFiles | None:
    certificate, key, client_ca = (values[name] for name in ("tls_cert", "tls_key", "tls_client_ca"))
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if certificate is None or key is None:
        if client_ca:
            raise click.UsageError("--tls-client-ca needs --tls-cert and --tls-key")
        return None
    return PEMFiles(certificate, key, client_ca)


_MODEL_DEFAULTS = {option.name: option.default for option in OPTIONS if option.name in MODEL_OPTION_NAMES}


def build(models: tuple[tuple[str, Path], ...], values: dict[str, Any]) -> tuple[ServerOptions, ModelOptions]:
    """Builds both option objects from the values of OPTIONS. Without models, those of SERVER_OPTIONS are enough. Raises
    click.UsageError."""
    values = {**_MODEL_DEFAULTS, **values}
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
