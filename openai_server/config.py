"""The options of the command line. Each is also an environment variable: OPENAI_SERVER_ and its name."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from openai_server import __version__

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
    drain_delay: float = 0
    drain_timeout: int = 25
    log_level: str = "info"
    access_log: bool = False

    def set_up_logging(self) -> None:
        logging.basicConfig(level=self.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


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
    _option("--log-level", "Least level to log.", type=click.Choice(["debug", "info", "warning", "error"])),
    _option("--access-log/--no-access-log", "Whether to log each request."),
)


def command(run: Callable[[Config], None]) -> click.Command:
    """The command line, which calls `run` with what was given."""

    def callback(**given: Any) -> None:
        config = Config(**given)
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
