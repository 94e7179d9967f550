"""`python -m anyserve_worker`, and the console script `anyserve`."""

from anyserve_common import interrupts

if __name__ == "__main__":
    interrupts.end_quietly()  # the imports below take most of the startup time before signals are handled

import os
import sys
from pathlib import Path
from typing import Any

# grpc reads both variables on import. Its own log lines about a port in use are worse than our error message.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# grpc's polling thread reads the sockets itself, instead of waking a pool thread that competes with computation.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

import click
import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from anyserve_common import addresses, logs, standard_streams
from anyserve_common.command_line import Command
from anyserve_common.text import printable
from anyserve_worker import __version__
from anyserve_worker.cli import ENV_PREFIX, OPTIONS, SERVER_OPTIONS, build, name_of_file, parse_models
from anyserve_worker.pipelines import options as pipeline_options
from anyserve_worker.service.tls import probe_address

_SETTINGS: dict[str, Any] = {
    "auto_envvar_prefix": ENV_PREFIX,
    "max_content_width": 100,
    "help_option_names": ["-h", "--help"],
}


_MODEL = click.Option(
    ["--model", "models"],
    multiple=True,
    envvar=f"{ENV_PREFIX}_MODEL",
    show_envvar=True,
    metavar="[NAME=]PATH",
    help="GGUF file to serve; repeatable. The first is the default model. NAME defaults to the file name.",
)
_HEALTHCHECK = click.Option(
    ["--healthcheck"],
    is_flag=True,
    help="Check whether the worker at --host and --port is ready; exit with 0 if it is, else 1.",
)


_ALL_OPTIONS = (*OPTIONS, pipeline_options.FOLDER, *pipeline_options.OPTIONS)


@click.command(cls=Command, context_settings=_SETTINGS, params=[_MODEL, _HEALTHCHECK, *_ALL_OPTIONS])
@click.version_option(__version__)
def main(models: tuple[str, ...], healthcheck: bool, **values: Any) -> None:
    """Serve GGUF models on llama.cpp, and pipelines, over the KServe v2 gRPC protocol."""
    if healthcheck:
        sys.exit(not _is_healthy(values["host"], values["port"], tls=values["tls_cert"] is not None))
    if not models and not values["pipelines"]:
        raise click.UsageError("no model: pass --model /path/to/model.gguf, or --pipelines with a folder")
    _run(parse_models(models), values)


@click.group(context_settings=_SETTINGS)
def anyserve() -> None:
    """AnyServe: serve language models over the KServe v2 gRPC protocol."""


def _model_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    if name is not None and (not name or "=" in name):
        raise click.BadParameter(f"a model's name must not be empty or contain '=', got {name!r}.")
    return name


_ARGUMENTS = (
    click.Argument(["model"]),
    click.Option(["--name"], callback=_model_name, help="Name of the model. Default: the file name."),
)


@anyserve.command(cls=Command, context_settings=_SETTINGS, params=[*_ARGUMENTS, *_ALL_OPTIONS])
@click.version_option(__version__)
def serve(model: str, name: str | None, **values: Any) -> None:
    """Serve the GGUF file MODEL."""
    name = name or name_of_file(model)
    if not name:
        raise click.BadParameter(f"{model!r} is not the path of a file.", param_hint="MODEL")
    if not name.isprintable():
        raise click.BadParameter(f"the name {name!r} has unprintable characters.")
    _run(((name, Path(model)),), values)


_PIPELINES_ARGUMENT = click.Argument(["pipelines"], type=pipeline_options.FOLDER_TYPE, metavar="FOLDER")


@anyserve.command(
    name="pipelines",
    cls=Command,
    context_settings=_SETTINGS,
    params=[_PIPELINES_ARGUMENT, *SERVER_OPTIONS, *pipeline_options.OPTIONS],
)
@click.version_option(__version__)
def serve_pipelines(**values: Any) -> None:
    """Serve the subfolders of FOLDER as pipelines, without GGUF models."""
    _run((), values)


def _run(models: tuple[tuple[str, Path], ...], values: dict[str, Any]) -> None:
    interrupts.end_quietly()  # for `anyserve` too, before llama.cpp is imported
    server_options, model_options = build(models, values)
    for _, path in models:
        if not os.path.isfile(path):  # Path.is_file raises for a path that is too long
            raise click.ClickException(f"{printable(str(path))}: no such model file")
    standard_streams.secure()
    logs.set_up(server_options.log_level, values["log_format"])
    from anyserve_worker.core.errors import LoadError

    trials = gguf = None
    if models:
        try:
            # Imports llama.cpp. --help, wrong options and pipelines do without it.
            from anyserve_worker.llama.load_trial import LoadTrials
        except LoadError as error:
            raise click.ClickException(str(error)) from error

        trials = LoadTrials([path for _, path in models], model_options)
        # Imported while the first trial runs.
        from anyserve_worker.service.gguf_model import GGUFModels

        gguf = GGUFModels(models, model_options, server_options.threads)
    from anyserve_worker.service.server import StartError, serve

    try:
        uvloop.run(serve(server_options, gguf, trials, pipeline_options.build(values["pipelines"], values)))
    except (LoadError, StartError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        if trials:
            trials.close()


def _is_healthy(hosts: tuple[str, ...], port: int, *, tls: bool) -> bool:
    """Whether a worker is ready at any of these addresses. Raises ClickException."""
    if tls:
        return _is_ready_at(probe_address(port))
    try:
        listening = addresses.resolve(hosts)
    except addresses.AddressError as error:
        raise click.ClickException(str(error)) from error
    return any(_is_ready_at(addresses.endpoint(addresses.reached_at(address), port)) for address in listening)


def _is_ready_at(target: str) -> bool:
    with grpc.insecure_channel(target, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    main(prog_name="python -m anyserve_worker")
