"""The options of the command line. Each is also an environment variable: OPENAI_SERVER_ and its name."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from openai_server import __version__
from openai_server.access.tls import Files
from openai_server.telemetry import logs, tracing

ENVIRONMENT_PREFIX = "OPENAI_SERVER_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Times are in seconds. What each field means is said once, in the help of its option."""

    anyserve_endpoint: tuple[str, ...] = ("localhost:8000",)
    backend_tls: bool = False
    backend_ca: str | None = None
    backend_cert: str | None = None
    backend_key: str | None = None
    backend_server_name: str = ""
    keepalive_time: float = 5
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    model_alias: Mapping[str, str] = field(default_factory=dict)
    served_model: tuple[str, ...] = ()
    chat_template: str | None = None
    request_timeout: float = 600
    lookup_timeout: float = 5
    ping_interval: float = 5
    template_timeout: float = 1
    template_max_chars: int = 4 << 20
    max_body_bytes: int = 16 << 20
    api_key: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: Path | None = None
    cors_origin: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    header_timeout: float = 10
    body_timeout: float = 60
    send_timeout: float = 60
    keep_alive_timeout: int = 75
    max_concurrency: int = 1024
    max_queue: int = 1024
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_output_tokens: int = 0
    max_n: int = 128
    max_prompt_chars: int = 4 << 20
    max_schema_bytes: int = 256 << 10
    drain_delay: float = 0
    drain_timeout: int = 25
    admin_port: int | None = None
    log_level: str = "info"
    log_format: str = logs.TEXT
    access_log: bool = True
    tracing: str = tracing.AUTO

    @property
    def tls_files(self) -> Files | None:
        """None: plain HTTP."""
        return Files(self.tls_cert, self.tls_key, self.tls_client_ca) if self.tls_cert else None

    def set_up_logging(self) -> None:
        logs.set_up(self.log_level, self.log_format)


# ---- Callbacks of options: what was given to what is meant


def _names(_: click.Context, __: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """A repeatable option; one value (an environment variable has only one) may hold several, by commas or spaces."""
    return tuple(name for value in given for name in re.split(r"[,\s]+", value) if name)


def _aliases(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    aliases = {}
    for value in _names(context, option, given):
        alias, _, model = value.partition("=")
        if not (alias and model):
            raise click.BadParameter(f"{value!r} is not of the form alias=model.")
        aliases[alias] = model
    return aliases


def _file_text(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"can't read {path!r}: {getattr(error, 'strerror', None) or error}.") from error


def _api_keys(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """No message holds a key."""
    from openai_server.access import keys  # and with it protobuf, which the parent of several processes does not need

    found = _names(context, option, given)
    if given and not found:  # such as a variable of the shell that is not set: not a reason to let everybody in
        raise click.BadParameter("it is empty.")
    try:
        keys.keys_from_options(found)
    except keys.BadKeys as error:
        raise click.BadParameter(f"{error}.") from None
    return found


def _api_key_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        from openai_server.access import key_ring, keys

        try:
            key_ring.read(path)
        except keys.BadKeys as error:
            raise click.BadParameter(f"'{path}': {error}.") from None
    return path


_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s?#@]+")


def _origins(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    origins = _names(context, option, given)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise click.BadParameter(f"{origin!r} is not of the form http://host:port, nor '*'.")
    return origins


def _endpoints(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    endpoints = tuple(dict.fromkeys(_names(context, option, given)))
    if not endpoints:
        raise click.BadParameter("there must be one.")
    for endpoint in endpoints:
        if endpoint.startswith("dns:") and not re.fullmatch(r"dns:///[^/]+:\d{1,5}", endpoint):
            raise click.BadParameter(f"{endpoint!r} is not of the form dns:///host:port.")
    return endpoints


def _option(flag: str, help: str, **how: Any) -> click.Option:
    name = flag.removeprefix("--").split("/")[0].replace("-", "_")
    if not how.get("multiple"):
        how.setdefault("default", Config.__dataclass_fields__[name].default)
    return click.Option(
        [flag, name],
        help=help,
        envvar=ENVIRONMENT_PREFIX + name.upper(),
        show_envvar=True,
        show_default=how.get("default") is not None,
        **how,
    )


def _seconds(low: float = 0.001) -> dict[str, Any]:
    return {"type": click.FloatRange(min=low), "metavar": "SECONDS"}


def _file() -> dict[str, Any]:
    return {"type": click.Path(exists=True, dir_okay=False, readable=True), "metavar": "FILE"}


def _count(low: int, high: int | None = None) -> dict[str, Any]:
    return {"type": click.IntRange(low, high), "metavar": "N"}


def _path(**how: Any) -> dict[str, Any]:
    return {"type": click.Path(path_type=Path), "metavar": "FILE", **how}


ACCESS_OPTIONS = (
    _option(
        "--api-key",
        "Key that requests must show as `Authorization: Bearer KEY`; repeatable. Other users of the machine can see"
        " the command line: the variable or --api-key-file keeps it from them.",
        metavar="KEY",
        callback=_api_keys,
        multiple=True,
    ),
    _option(
        "--api-key-file",
        "File of further keys, one a line, or `name: key`; keys of one name share its limits. Read again when it"
        " changes.",
        **_path(callback=_api_key_file),
    ),
    _option(
        "--cors-origin",
        "Origin of web pages that may use this server, such as https://chat.example.com, or `*`; repeatable.",
        metavar="ORIGIN",
        callback=_origins,
        multiple=True,
    ),
    _option("--tls-cert", "Certificate with its chain (PEM): serves HTTPS. Read again when it changes.", **_path()),
    _option("--tls-key", "Its key (PEM), if that is not in the same file.", **_path()),
    _option("--tls-client-ca", "CA (PEM) of the certificates that clients then have to show.", **_path()),
    _option("--header-timeout", "Longest time for a request's headers; then 408.", **_seconds()),
    _option("--body-timeout", "Longest time for a request's body; then 408.", **_seconds()),
    _option("--send-timeout", "Longest time that a client may not read what waits for it.", **_seconds()),
    _option(
        "--keep-alive-timeout",
        "Time after which a connection without a request is closed.",
        type=click.IntRange(1),
        metavar="SECONDS",
    ),
    _option("--max-concurrency", "Requests that run at a time, in each process; 0 is no limit.", **_count(0)),
    _option(
        "--max-queue",
        "Requests that wait for a place, in each process; above it the answer is 429. API keys take turns.",
        **_count(0),
    ),
    _option(
        "--requests-per-minute",
        "Requests of each API key, in each process; above it the answer is 429. 0 is no limit.",
        **_count(0),
    ),
    _option(
        "--tokens-per-minute",
        "Tokens, read and generated, of each API key, in each process; above it the answer is 429. 0 is no limit.",
        **_count(0),
    ),
    _option(
        "--max-output-tokens",
        "Largest `max_tokens`, and where a request without one ends; 0 is no limit but the context.",
        **_count(0),
    ),
    _option("--max-n", "Largest `n` and `best_of`.", **_count(1, 128)),
    _option("--max-prompt-chars", "Characters of a prompt, or token ids; 0 is no limit.", **_count(0)),
    _option("--max-schema-bytes", "Size of a JSON Schema, regular expression or grammar; 0 is no limit.", **_count(0)),
)

OPTIONS = (
    _option(
        "--anyserve-endpoint",
        "KServe v2 gRPC server to speak to; repeatable, for several with the same models. With `dns:///` in front, "
        "every address of the name is a server.",
        metavar="HOST:PORT",
        callback=_endpoints,
        default=Config.__dataclass_fields__["anyserve_endpoint"].default,
        multiple=True,
    ),
    _option("--backend-tls/--no-backend-tls", "Speak to it over TLS, trusting the system's certificate authorities."),
    _option("--backend-ca", "Certificate authorities (PEM) to trust instead.", **_file()),
    _option("--backend-cert", "Certificate (PEM) to show to the backend.", **_file()),
    _option("--backend-key", "Private key (PEM) of --backend-cert.", **_file()),
    _option(
        "--backend-server-name",
        "Name that the backend's certificate must have. Default: the host of the endpoint.",
        metavar="NAME",
    ),
    _option(
        "--keepalive-time",
        "Silence on a connection in use before the backend is pinged, and then again until it counts as lost. Backends "
        "that don't say that they permit it are pinged once a minute.",
        **_seconds(),
    ),
    _option("--host", "Address to listen on; 0.0.0.0 is every IPv4 address.", metavar="ADDRESS"),
    _option("--port", "Port to listen on; 0 is a free one.", type=click.IntRange(0, 65535), metavar="PORT"),
    _option(
        "--workers",
        "Processes that serve, each with the backend on a connection of its own.",
        type=click.IntRange(1),
        metavar="N",
    ),
    _option(
        "--model-alias",
        "Another name for a served model; repeatable.",
        metavar="ALIAS=MODEL",
        callback=_aliases,
        multiple=True,
    ),
    _option(
        "--served-model",
        "Model of a backend that can't list its own (no RepositoryIndex); repeatable.",
        metavar="NAME",
        callback=_names,
        multiple=True,
    ),
    _option(
        "--chat-template",
        "File with a Jinja chat template, used instead of the models' own.",
        metavar="FILE",
        callback=_file_text,
    ),
    _option("--request-timeout", "Longest time for the answer to one prompt; 0 is no limit.", **_seconds(0)),
    _option("--lookup-timeout", "Longest time to ask the backend for its health or models.", **_seconds()),
    _option("--ping-interval", "Silence in a stream before a comment is sent to keep it open.", **_seconds()),
    _option("--template-timeout", "Most processor time to render a chat template.", **_seconds()),
    _option(
        "--template-max-chars", "Longest prompt that a chat template may render.", type=click.IntRange(1), metavar="N"
    ),
    _option(
        "--max-body-bytes", "Largest request body; above it the answer is 413.", type=click.IntRange(1), metavar="N"
    ),
    _option(
        "--drain-delay",
        "Time after SIGTERM in which it is not ready any more, but answers those who have not noticed yet.",
        **_seconds(0),
    ),
    _option(
        "--drain-timeout",
        "Time that running requests have to end after SIGTERM.",
        type=click.IntRange(0),
        metavar="SECONDS",
    ),
    _option(
        "--admin-port",
        "Port for health and metrics, on the same address; they are no longer on --port then. 0 is a free one.",
        type=click.IntRange(0, 65535),
        metavar="PORT",
    ),
    *ACCESS_OPTIONS,
    _option("--log-level", "Least level to log.", type=click.Choice(["debug", "info", "warning", "error"])),
    _option("--log-format", "Lines to read, or JSON objects.", type=click.Choice(logs.FORMATS)),
    _option(
        "--access-log/--no-access-log",
        "One line a request, with ids, model, tokens and times; never prompts, answers or keys.",
    ),
    _option(
        "--tracing",
        "OpenTelemetry spans. auto: if OTEL_EXPORTER_OTLP_ENDPOINT says where to, and the extra `otel` is installed.",
        type=click.Choice(tracing.CHOICES),
    ),
)


def command(run: Callable[[Config], None]) -> click.Command:
    """The command line, which calls `run` with what was given."""

    def callback(**given: Any) -> None:
        config = Config(**given)
        if config.tls_cert is None and (config.tls_key or config.tls_client_ca):
            raise click.UsageError("--tls-key and --tls-client-ca need --tls-cert.")
        if (config.backend_cert is None) != (config.backend_key is None):
            raise click.UsageError("--backend-cert and --backend-key go together.")
        if not config.backend_tls and (config.backend_ca or config.backend_cert or config.backend_server_name):
            raise click.UsageError("--backend-ca, --backend-cert and --backend-server-name need --backend-tls.")
        run(config)

    made = click.Command(
        "openai_server",
        callback=callback,
        params=list(OPTIONS),
        help="OpenAI's REST API in front of any KServe v2 gRPC text model server.",
        context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__)(made)
