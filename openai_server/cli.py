"""The options of the command line. Each is also an environment variable: OPENAI_SERVER_ and its name."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from anyserve_common import logs, tracing
from anyserve_common.command_line import Command
from openai_server import __version__
from openai_server.access.options import ACCESS_OPTIONS, check_keys
from openai_server.backends.target import FORM, problem_with
from openai_server.config import Config, EmptyIsGiven, count, file, names, option, seconds


def _aliases(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for value in names(context, option, given):
        alias, _, model = value.partition("=")
        if not (alias and model):
            raise click.BadParameter(f"{value!r} is not of the form alias=model.")
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


def _hosts(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    hosts = names(context, option, given)
    if not hosts:
        raise click.BadParameter("it is empty.")
    return hosts


def _endpoints(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    endpoints = tuple(dict.fromkeys(names(context, option, given)))
    if not (endpoints and all(value.strip() for value in given)):
        raise click.BadParameter(f"it is empty; an endpoint has the form {FORM}.")
    for endpoint in endpoints:
        if problem := problem_with(endpoint):
            raise click.BadParameter(f"{endpoint!r} {problem}; an endpoint has the form {FORM}.")
    return endpoints


OPTIONS = (
    option(
        "--anyserve-endpoint",
        "KServe v2 gRPC server to speak to; repeatable. A request goes to one that has its model; the default model is "
        "the first of the first. An IPv6 address is in brackets. With `dns:///` in front, every address of the name is "
        "a server. `unix:PATH` is a socket.",
        cls=EmptyIsGiven,
        metavar="HOST:PORT",
        callback=_endpoints,
        default=Config.__dataclass_fields__["anyserve_endpoint"].default,
        multiple=True,
    ),
    option("--backend-tls/--no-backend-tls", "Speak to it over TLS, trusting the system's certificate authorities."),
    option("--backend-ca", "Certificate authorities (PEM) to trust instead.", **file()),
    option("--backend-cert", "Certificate (PEM) to show to the backend.", **file()),
    option("--backend-key", "Private key (PEM) of --backend-cert.", **file()),
    option(
        "--backend-server-name",
        "Name that the backend's certificate must have. Default: the host of the endpoint.",
        metavar="NAME",
    ),
    option(
        "--keepalive-time",
        "Silence on a connection in use before the backend is pinged, and then again until it counts as lost. Backends "
        "that don't say that they permit it are pinged once a minute.",
        **seconds(),
    ),
    option(
        "--host",
        "Address or name to listen on; repeatable. `::` is every address, IPv4 and IPv6; 0.0.0.0 is every IPv4 address."
        " An address family that the machine lacks is left out.",
        metavar="ADDRESS",
        callback=_hosts,
        default=Config.__dataclass_fields__["host"].default,
        multiple=True,
    ),
    option(
        "--port",
        "Port to listen on, the same on each address; 0 is a free one.",
        type=click.IntRange(0, 65535),
        metavar="PORT",
    ),
    option(
        "--workers",
        "Processes that serve, each with the backend on a connection of its own.",
        type=click.IntRange(1),
        metavar="N",
    ),
    option(
        "--model-alias",
        "Another name for a served model; repeatable.",
        metavar="ALIAS=MODEL",
        callback=_aliases,
        multiple=True,
    ),
    option(
        "--served-model",
        "Model of backends that can't list their own (no RepositoryIndex); repeatable. Each has those that it knows.",
        metavar="NAME",
        callback=names,
        multiple=True,
    ),
    option(
        "--chat-template",
        "File with a Jinja chat template, used instead of the models' own. It must compile.",
        metavar="FILE",
        callback=_file_text,
    ),
    option(
        "--forged-markup",
        "What to do with a chat that has the model's markup in a field, such as a control token in a message, if the "
        "backend can't be sent which parts of the prompt are plain text: `allow` sends it, and the model reads markup; "
        "`refuse` answers 400. Other backends read text in either case.",
        type=click.Choice(("allow", "refuse")),
    ),
    option("--request-timeout", "Longest time for the answer to one prompt; 0 is no limit.", **seconds(0)),
    option("--lookup-timeout", "Longest time to ask the backend for its health or models.", **seconds()),
    option("--ping-interval", "Silence in a stream before a comment is sent to keep it open.", **seconds()),
    option("--template-timeout", "Most processor time to render a chat template.", **seconds()),
    option(
        "--template-max-chars", "Longest prompt that a chat template may render.", type=click.IntRange(1), metavar="N"
    ),
    option(
        "--max-body-bytes", "Largest request body; above it the answer is 413.", type=click.IntRange(1), metavar="N"
    ),
    option(
        "--max-json-values",
        "Most JSON values in a request body, counted by its commas and opening brackets, those in strings too; above it"
        " the answer is 413.",
        **count(1),
    ),
    option(
        "--max-inflight-body-bytes",
        "Bodies of all requests that are not over, in each process; above it the answer is 429. 0 is no limit.",
        **count(0),
    ),
    option(
        "--drain-delay",
        "Time after SIGTERM in which it is not ready any more, but answers those who have not noticed yet.",
        **seconds(0),
    ),
    option(
        "--drain-timeout",
        "Time that running requests have to end after SIGTERM.",
        type=click.IntRange(0),
        metavar="SECONDS",
    ),
    option(
        "--admin-port",
        "Port for health and metrics, on the same addresses; they are no longer on --port then. 0 is a free one.",
        type=click.IntRange(0, 65535),
        metavar="PORT",
    ),
    option("--docs/--no-docs", "Serve the API's reference at /docs, a page that can send requests."),
    *ACCESS_OPTIONS,
    option("--log-level", "Least level to log.", type=click.Choice(["debug", "info", "warning", "error"])),
    option("--log-format", "Lines to read, or JSON objects.", type=click.Choice(logs.FORMATS)),
    option(
        "--access-log/--no-access-log",
        "One line a request, with ids, model, tokens and times; never prompts, answers or keys.",
    ),
    option(
        "--tracing",
        "OpenTelemetry spans. auto: if OTEL_EXPORTER_OTLP_ENDPOINT says where to, and the extra `otel` is installed.",
        type=click.Choice(tracing.CHOICES),
    ),
)


HEALTHCHECK = click.Option(
    ["--healthcheck"],
    is_flag=True,
    help="Ask a running server at --host and --port, or --admin-port, whether it is ready; exit 0 or 1.",
)


def command(run: Callable[[Config], None]) -> click.Command:
    """The command line, which calls `run` with what was given."""

    def callback(healthcheck: bool, **given: Any) -> None:
        config = Config(**given)
        if config.tls_cert is None and (config.tls_key or config.tls_client_ca):
            raise click.UsageError("--tls-key and --tls-client-ca need --tls-cert.")
        if 0 < config.max_inflight_body_bytes < config.max_body_bytes:
            raise click.UsageError("--max-inflight-body-bytes is less than --max-body-bytes.")
        if (config.backend_cert is None) != (config.backend_key is None):
            raise click.UsageError("--backend-cert and --backend-key go together.")
        if config.api_key and config.api_key_file:
            check_keys(config.api_key, config.api_key_file)
        if not config.backend_tls and (config.backend_ca or config.backend_cert or config.backend_server_name):
            raise click.UsageError("--backend-ca, --backend-cert and --backend-server-name need --backend-tls.")
        if healthcheck:
            from openai_server import health_check  # no server needs it

            sys.exit(not health_check.is_ready(config))
        run(config)

    made = Command(
        "openai_server",
        callback=callback,
        params=[*OPTIONS, HEALTHCHECK],
        help="OpenAI's REST API in front of any KServe v2 gRPC text model server.",
        context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__)(made)
