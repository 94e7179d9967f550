"""The command-line options. Each can also be set by the environment variable OPENAI_SERVER_ plus its name."""

import os
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
from openai_server.config import METRICS_NAMES, Config, EmptyVariableOption, count, file, option, path, seconds
from openai_server.core.model_files import EVERY_MODEL, TemplateFile, TokenizerFolder
from openai_server.prompt_file_options import PROMPT_FILE_OPTIONS
from openai_server.store_options import STORE_OPTIONS
from openai_server.store_options import check as check_store
from openai_server.tokenizing import folder


def _pairs(form: str) -> Callable[[click.Context, click.Parameter, Sequence[str]], dict[str, str]]:
    """A callback for values of the form `key=value`."""

    def read(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for text in names(context, option, values):
            key, _, value = text.partition("=")
            if not (key and value):
                raise click.BadParameter(f"{text!r} does not have the form {form}.")
            if pairs.get(key, value) != value:
                raise click.BadParameter(f"{key!r} can't stand for both {pairs[key]!r} and {value!r}.")
            pairs[key] = value
        return pairs

    return read


def _check_dialects(config: Config) -> None:
    """Raises UsageError for an unusable mapping file or an unknown name of a dialect."""
    if not (config.dialect or config.mapping):
        return
    from openai_server.backends.dialects.choose import Dialects  # few servers need these here
    from openai_server.backends.dialects.mapping.load import BadMapping, load

    files = []
    for mapping in config.mapping:
        try:
            files.append(load(mapping))
        except BadMapping as error:
            raise click.UsageError(f"--mapping: '{mapping}' {error}.") from error
    try:
        Dialects(config.dialect, files)
    except KeyError as error:
        known = ", ".join(Dialects(files=files).names())
        raise click.UsageError(f"--dialect: {error} is none of the dialects: {known}.") from error


def _templates(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, TemplateFile]:
    templates: dict[str, TemplateFile] = {}
    for value in values:
        model, path = _model_and_file(value)
        try:
            file = TemplateFile(path, Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"can't read {path!r}: {getattr(error, 'strerror', None) or error}.") from error
        if templates.setdefault(model, file) != file:
            which = f"the model {model!r}" if model else "all models"
            raise click.BadParameter(f"{which} can't have both {templates[model].path!r} and {path!r}.")
    return templates


def _model_and_file(value: str) -> tuple[str, str]:
    """The model and the path in NAME=FILE; the model of a FILE alone is EVERY_MODEL."""
    model, separator, path = value.partition("=")
    is_named = separator and not os.path.exists(value) and (not {"/", os.sep} & {*model} or os.path.exists(path))
    return (model, path) if is_named else (EVERY_MODEL, value)


def _tokenizers(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, TokenizerFolder]:
    folders: dict[str, TokenizerFolder] = {}
    for value in values:
        model, _separator, path = value.partition("=")
        if not (model and path):
            raise click.BadParameter(f"{value!r} does not have the form NAME=FOLDER.")
        if model in folders and folders[model].path != path:
            raise click.BadParameter(f"the model {model!r} can't have both {folders[model].path!r} and {path!r}.")
        try:
            folders[model] = folder.read(path)
        except folder.BadFolder as error:
            raise click.BadParameter(f"{error}.") from error
    return folders


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
        "before the connection counts as lost. A backend that doesn't advertise permission for this is pinged about "
        "every five minutes.",
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
        callback=_pairs("alias=model"),
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
        "--dialect",
        "Dialect of a model, instead of the one that its metadata suggests; repeatable. `python -m openai_server "
        "check` lists the models with their dialects.",
        metavar="MODEL=NAME",
        callback=_pairs("model=dialect"),
        multiple=True,
    ),
    option(
        "--mapping",
        "TOML file that describes the tensors of a kind of model (docs/mapping.md); repeatable.",
        multiple=True,
        **path(),
    ),
    option(
        "--chat-template",
        "File with a Jinja chat template to use instead of the models' own templates, or NAME=FILE for one model; "
        "repeatable. It must compile.",
        metavar="[NAME=]FILE",
        callback=_templates,
        multiple=True,
    ),
    option(
        "--tokenizer",
        "Folder in Hugging Face's form that describes a model whose backend doesn't; repeatable. It gives the chat "
        "template, the special tokens and the context length, as far as the backend doesn't report them. With a "
        "tokenizer.json, this server tokenizes for the model, which needs the extra `tokenizers`.",
        metavar="NAME=FOLDER",
        callback=_tokenizers,
        multiple=True,
    ),
    option(
        "--forged-markup",
        "How to handle a chat with the model's markup in a field, such as a control token in a message, when the "
        "backend has no input for which parts of the prompt are plain text: `allow` sends the chat, and the model "
        "reads markup; `refuse` responds with 400. Other backends read such a field as plain text in either case.",
        type=click.Choice(("allow", "refuse")),
    ),
    option(
        "--request-timeout",
        "Time limit for the response to one prompt, except in lines of batches; 0 is no limit.",
        **seconds(0),
    ),
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
    option(
        "--metrics-names",
        "Expose metrics under another server's names as well, for gateways and autoscalers that read those: `vllm`. "
        "Repeatable.",
        type=click.Choice(METRICS_NAMES),
        callback=lambda _, __, values: tuple(dict.fromkeys(values)),
        multiple=True,
    ),
    option("--docs/--no-docs", "Serve the API reference at /docs, a page that can also send requests."),
    *ACCESS_OPTIONS,
    *STORE_OPTIONS,
    *PROMPT_FILE_OPTIONS,
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


CHECK = click.Argument(["action"], type=click.Choice(["check"]), required=False, metavar="[check]")
HEALTHCHECK = click.Option(
    ["--healthcheck"],
    is_flag=True,
    help="Check whether the server at --host and --port, or --admin-port, is ready; exit with 0 if so, else 1.",
)


def command(run: Callable[[Config], None]) -> click.Command:
    """The command line, which calls `run` with the parsed options."""

    def callback(action: str | None, healthcheck: bool, **values: Any) -> None:
        config = Config(**values)
        _check_dialects(config)
        check_store(config)
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
        if action is not None:
            from openai_server import check  # a server doesn't need it

            sys.exit(not check.run(config))
        run(config)

    program = Command(
        "openai_server",
        callback=callback,
        params=[CHECK, *OPTIONS, HEALTHCHECK],
        help="OpenAI's and Anthropic's REST APIs in front of any KServe v2 gRPC text model server. With `check`, print "
        "how this server calls each model of the backends, generate a token with each, and exit.",
        context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__)(program)
