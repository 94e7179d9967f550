"""The command-line options. Each can also be set by the environment variable OPENAI_SERVER_ plus its name."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from anyserve_common import logs, tracing
from anyserve_common.command_line import Command, hosts, names
from openai_server import __version__
from openai_server.access.options import ACCESS_OPTIONS, check_keys
from openai_server.backends.target import FORM, problem_with
from openai_server.config import Config, EmptyVariableOption, count, file, option, seconds


def _aliases(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for value in names(context, option, values):
        alias, _, model = value.partition("=")
        if not (alias and model):
            raise click.BadParameter(f"{value!r} does not have the form alias=model.")
        if aliases.get(alias, model) != model:
            raise click.BadParameter(f"{alias!r} can't stand for both {aliases[alias]!r} and {model!r}.")
        aliases[alias] = model
    return aliases


def _file_text(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"can't read {path!r}: {getattr(error, 'strerror', None) or error}.") from error


def _endpoints(context: click.Context, option: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    endpoints = tuple(dict.fromkeys(names(context, option, values)))
    if not (endpoints and all(value.strip() for value in values)):
        raise click.BadParameter(f"it is empty; an endpoint has the form {FORM}.")
    for endpoint in endpoints:
        if problem := problem_with(endpoint):
            raise click.BadParameter(f"{endpoint!r} {problem}; an endpoint has the form {FORM}.")
    return endpoints


OPTIONS = (
    option(
        "--anyserve-endpoint",
        "KServe v2 gRPC server to send requests to; repeatable. A request goes to a server that has its model; the "
        "default model is the first model of the first server. Put IPv6 addresses in brackets. With the prefix "
        "`dns:///`, every address that the name resolves to is a server. `unix:PATH` is a socket.",
        cls=EmptyVariableOption,
        metavar="HOST:PORT",
        callback=_endpoints,
        default=Config.__dataclass_fields__["anyserve_endpoint"].default,
        multiple=True,
    ),
    option(
        "--prefix-affinity/--no-prefix-affinity",
        "Send a prompt to a server that got the same beginning before, unless another server has clearly fewer running "
        "requests. Turn it off for servers without a prefix cache.",
    ),
    option(
        "--backend-tls/--no-backend-tls",
        "Connect to the backend with TLS and trust the system's certificate authorities.",
    ),
    option("--backend-ca", "Certificate authorities (PEM) to trust instead of the system's.", **file()),
    option("--backend-cert", "Client certificate (PEM) to present to the backend.", **file()),
    option("--backend-key", "Private key (PEM) of --backend-cert.", **file()),
    option(
        "--backend-server-name",
        "Name that the backend's certificate must contain. Default: the host of the endpoint.",
        metavar="NAME",
    ),
    option(
        "--keepalive-time",
        "Seconds without data on a connection in use before the backend is pinged, and seconds to wait for its reply "
        "before the connection counts as lost. A backend that doesn't advertise permission for this is pinged once a "
        "minute.",
        **seconds(),
    ),
    option(
        "--host",
        "Address or host name to listen on; repeatable. `::` is every IPv4 and IPv6 address, 0.0.0.0 every IPv4 "
        "address. An address family that the machine doesn't support is skipped.",
        metavar="ADDRESS",
        callback=hosts,
        default=Config.__dataclass_fields__["host"].default,
        multiple=True,
    ),
    option(
        "--port",
        "Port to listen on, the same on each address; 0 picks a free port.",
        type=click.IntRange(0, 65535),
        metavar="PORT",
    ),
    option(
        "--workers",
        "Number of server processes, each with its own connection to the backend.",
        **count(1),
    ),
    option(
        "--model-alias",
        "Additional name for a served model; repeatable.",
        metavar="ALIAS=MODEL",
        callback=_aliases,
        multiple=True,
    ),
    option(
        "--served-model",
        "Model to look for on backends that can't list their models (no RepositoryIndex); repeatable.",
        metavar="NAME",
        callback=names,
        multiple=True,
    ),
    option(
        "--chat-template",
        "File with a Jinja chat template to use instead of the models' own templates. It must compile.",
        metavar="FILE",
        callback=_file_text,
    ),
    option(
        "--forged-markup",
        "How to handle a chat with the model's markup in a field, such as a control token in a message, when the "
        "backend has no input for which parts of the prompt are plain text: `allow` sends the chat, and the model "
        "reads markup; `refuse` responds with 400. Other backends read such a field as plain text in either case.",
        type=click.Choice(("allow", "refuse")),
    ),
    option("--request-timeout", "Time limit for the response to one prompt; 0 is no limit.", **seconds(0)),
    option("--lookup-timeout", "Time limit for requests for the backend's health or models.", **seconds()),
    option(
        "--ping-interval",
        "Seconds without data in a stream before a comment (in Anthropic's API, a `ping` event) is sent to keep the "
        "connection open.",
        **seconds(),
    ),
    option("--template-timeout", "Limit on the processor time for rendering a chat template.", **seconds()),
    option(
        "--template-max-chars",
        "Longest prompt that a chat template may render, in characters.",
        **count(1),
    ),
    option(
        "--max-body-bytes",
        "Largest request body, in bytes; a larger one gets status 413.",
        **count(1),
    ),
    option(
        "--max-json-values",
        "Maximum number of JSON values in a request body, counted as its commas and opening brackets, including those "
        "in strings; a body with more gets status 413.",
        **count(1),
    ),
    option(
        "--max-inflight-body-bytes",
        "Total bytes of the bodies of all unfinished requests, in each process; a request beyond that gets status 429. "
        "0 is no limit.",
        **count(0),
    ),
    option(
        "--drain-delay",
        "Seconds after SIGTERM to report not-ready but keep accepting requests, so that load balancers can move away.",
        **seconds(0),
    ),
    option(
        "--drain-timeout",
        "Seconds after SIGTERM for running requests to finish.",
        type=click.IntRange(0),
        metavar="SECONDS",
    ),
    option(
        "--admin-port",
        "Separate port for health and metrics, on the same addresses; --port then no longer serves them. 0 picks a "
        "free port.",
        type=click.IntRange(0, 65535),
        metavar="PORT",
    ),
    option("--docs/--no-docs", "Serve the API reference at /docs, a page that can also send requests."),
    *ACCESS_OPTIONS,
    option("--log-level", "Minimum log level.", type=click.Choice(["debug", "info", "warning", "error"])),
    option("--log-format", "Log plain text lines or JSON objects.", type=click.Choice(logs.FORMATS)),
    option(
        "--access-log/--no-access-log",
        "Log one line per request, with ids, model, token counts and times; never prompts, responses or keys.",
    ),
    option(
        "--tracing",
        "Send OpenTelemetry spans. auto: only if OTEL_EXPORTER_OTLP_ENDPOINT is set and the extra `otel` is installed.",
        type=click.Choice(tracing.CHOICES),
    ),
)


HEALTHCHECK = click.Option(
    ["--healthcheck"],
    is_flag=True,
    help="Check whether the server at --host and --port, or --admin-port, is ready; exit with 0 if so, else 1.",
)


def command(run: Callable[[Config], None]) -> click.Command:
    """The command line, which calls `run` with the parsed options."""

    def callback(healthcheck: bool, **values: Any) -> None:
        config = Config(**values)
        if config.tls_cert is None and (config.tls_key or config.tls_client_ca):
            raise click.UsageError("--tls-key and --tls-client-ca need --tls-cert.")
        if 0 < config.max_inflight_body_bytes < config.max_body_bytes:
            raise click.UsageError("--max-inflight-body-bytes must not be less than --max-body-bytes.")
        if (config.backend_cert is None) != (config.backend_key is None):
            raise click.UsageError("--backend-cert and --backend-key must be set together.")
        if config.api_key and config.api_key_file:
            check_keys(config.api_key, config.api_key_file)
        if not config.backend_tls and (config.backend_ca or config.backend_cert or config.backend_server_name):
            raise click.UsageError("--backend-ca, --backend-cert and --backend-server-name need --backend-tls.")
        if healthcheck:
            from openai_server import health_check  # a server doesn't need it

            sys.exit(not health_check.is_ready(config))
        run(config)

    program = Command(
        "openai_server",
        callback=callback,
        params=[*OPTIONS, HEALTHCHECK],
        help="OpenAI's and Anthropic's REST APIs in front of any KServe v2 gRPC text model server.",
        context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__)(program)
