"""The command line: model names, options and their environment variables, and rejected values."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from anyserve_worker import __version__
from anyserve_worker.__main__ import anyserve, main
from anyserve_worker.cli import ENV_PREFIX, OPTIONS, build, parse_models
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.service.server_options import ServerOptions

MODELS = (("m", Path("m.gguf")),)


def options(*arguments: str, env: dict[str, str] | None = None) -> tuple[ServerOptions, ModelOptions]:
    """Returns the options that a command builds from these arguments."""
    built: list[tuple[ServerOptions, ModelOptions]] = []

    @click.command(context_settings={"auto_envvar_prefix": ENV_PREFIX}, params=list(OPTIONS))
    def command(**values: Any) -> None:
        built.append(build(MODELS, values))

    result = CliRunner(env=env).invoke(command, arguments, catch_exceptions=False)
    assert built, result.output
    return built[0]


def rejection(*arguments: str, env: dict[str, str] | None = None) -> str:
    """Returns the message, of one line, with which a command rejects its options."""
    return only_line(CliRunner(env=env).invoke(main, arguments, catch_exceptions=False))


def only_line(result: Result) -> str:
    assert result.exit_code != 0
    (line,) = result.output.splitlines()
    assert result.exit_code == (1 if line.endswith("no such model file") else 2), line
    return line


# ---- Model names


@pytest.mark.parametrize(
    ("value", "name", "path"),
    [
        ("/models/SmolLM2-135M.gguf", "SmolLM2-135M", "/models/SmolLM2-135M.gguf"),
        ("model.GGUF", "model", "model.GGUF"),
        ("big-00001-of-00003.gguf", "big", "big-00001-of-00003.gguf"),
        ("v1.5.gguf", "v1.5", "v1.5.gguf"),
        ("a.gguf.bin", "a.gguf.bin", "a.gguf.bin"),
        ("blob", "blob", "blob"),
        ("chat=/models/x.gguf", "chat", "/models/x.gguf"),
        ("chat=a=b.gguf", "chat", "a=b.gguf"),
        ("org/chat=/models/x.gguf", "org/chat", "/models/x.gguf"),
    ],
)
def test_a_model_is_named_by_its_file_or_explicitly(value: str, name: str, path: str) -> None:
    assert parse_models((value,)) == ((name, Path(path)),)


def test_the_path_of_an_existing_file_may_contain_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "a=b" / "temperature=0.gguf"
    path.parent.mkdir()
    path.touch()
    assert parse_models((str(path),)) == (("temperature=0", path),)
    assert parse_models((f"chat={path}",)) == (("chat", path),)


def test_several_models_keep_their_order() -> None:
    assert [name for name, _ in parse_models(("z.gguf", "a.gguf", "m=z.gguf"))] == ["z", "a", "m"]


@pytest.mark.parametrize("values", [("a.gguf", "dir/a.gguf"), ("x=a.gguf", "x=b.gguf"), ("a=b.gguf", "a.gguf")])
def test_two_models_with_the_same_name_are_rejected(values: tuple[str, ...]) -> None:
    with pytest.raises(click.BadParameter, match="two models are called"):
        parse_models(values)


@pytest.mark.parametrize("value", ["", "=", "=a.gguf", "name=", ".gguf", "/", "."])
def test_an_invalid_model_value_is_rejected(value: str) -> None:
    with pytest.raises(click.BadParameter, match="neither a path nor name=path"):
        parse_models((value,))


# ---- Options


def test_the_defaults_are_those_of_model_options() -> None:
    server_options, model_options = options()
    assert model_options == ModelOptions()
    assert (server_options.models, server_options.port) == (MODELS, 8000)
    assert server_options.hosts == server_options.metrics_hosts == ("127.0.0.1", "::1")
    assert server_options.threads >= 1


OTHER: dict[str, tuple[str, Any]] = {
    "n_ctx": ("2048", 2048),
    "kv_cells": ("4096", 4096),
    "n_batch": ("256", 256),
    "n_ubatch": ("64", 64),
    "prefill_chunk": ("32", 32),
    "parallel": ("3", 3),
    "cached_sequences": ("0", 0),
    "prefix_cache": ("false", False),
    "max_queue": ("0", 0),
    "threads": ("2", 2),
    "threads_batch": ("4", 4),
    "n_gpu_layers": ("0", 0),
    "flash_attention": ("off", "off"),
    "cache_type_k": ("q8_0", "q8_0"),
    "cache_type_v": ("f32", "f32"),
    "mmap": ("0", False),
    "mlock": ("1", True),
    "swa_full": ("no", False),
    "prompt_lookup": ("4", 4),
    "background_share": ("0.2", 0.2),
    "pooling": ("cls", "cls"),
}
"""Arguments by field of ModelOptions, each with a value other than the default."""


def test_every_field_of_model_options_has_a_test_value() -> None:
    assert OTHER.keys() == {field.name for field in fields(ModelOptions)}


@pytest.mark.parametrize("name", OTHER)
def test_every_model_option_is_also_an_environment_variable(name: str) -> None:
    text, value = OTHER[name]
    _, model_options = options(env={f"{ENV_PREFIX}_{name.upper()}": text})
    assert value != getattr(ModelOptions(), name)
    assert {f.name: getattr(model_options, f.name) for f in fields(ModelOptions)} == {
        **{f.name: f.default for f in fields(ModelOptions)},
        name: value,
    }


@pytest.mark.parametrize("name", OTHER)
def test_an_argument_overrides_the_environment_for_every_model_option(name: str) -> None:
    text, value = OTHER[name]
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        arguments = [option if value else option.replace("--", "--no-", 1)]
        against = str(not value)
    else:
        arguments = [option, text]
        against = str(getattr(ModelOptions(), name))
    _, model_options = options(*arguments, env={f"{ENV_PREFIX}_{name.upper()}": against})
    assert getattr(model_options, name) == value


def test_server_options_are_read() -> None:
    env = {"HOST": "0.0.0.0", "PORT": "0", "DRAIN_TIMEOUT": "1.5", "LOG_LEVEL": "debug"}
    server_options, _ = options(env={f"{ENV_PREFIX}_{name}": value for name, value in env.items()})
    assert (server_options.hosts, server_options.port) == (("0.0.0.0",), 0)
    assert (server_options.drain_timeout, server_options.log_level) == (1.5, "debug")


def test_a_host_may_be_a_name_or_an_address() -> None:
    server_options, _ = options("--host", "::1", "--host", "a b", env={f"{ENV_PREFIX}_METRICS_HOST": "::, c"})
    assert (server_options.hosts, server_options.metrics_hosts) == (("::1", "a", "b"), ("::", "c"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--parallel", "8", "--n-batch", "8"),
        ("--parallel", "1", "--n-batch", "1", "--n-ubatch", "1", "--prefill-chunk", "1"),
        ("--parallel", "256", "--cached-sequences", "255"),
        ("--kv-cells", "10", "--n-ctx", "10"),
        ("--kv-cells", "1"),
        ("--port", "65535", "--drain-timeout", "0"),
    ],
)
def test_the_ends_of_each_range_are_allowed(arguments: tuple[str, ...]) -> None:
    server_options, model_options = options(*arguments)
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        name = option.removeprefix("--").replace("-", "_")
        owner = model_options if hasattr(model_options, name) else server_options
        assert getattr(owner, name) == float(value)


@pytest.mark.parametrize("command", [main, anyserve], ids=["python -m", "anyserve"])
def test_help_names_every_option_and_its_environment_variable(command: click.Command) -> None:
    arguments = ["--help"] if command is main else ["serve", "--help"]
    result = CliRunner().invoke(command, arguments, terminal_width=100)
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for name in (*OTHER, "host", "port", "drain_timeout", "log_level"):
        assert "--" + name.replace("_", "-") in text
        assert f"{ENV_PREFIX}_{name.upper()}" in text
    assert max(map(len, result.output.splitlines())) <= 100


def test_version_prints_the_version() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


# ---- Rejected values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Error: no model: pass --model /path/to/model.gguf"),
        (("--model", "missing.gguf"), "Error: missing.gguf: no such model file"),
        (("--model", "a=x.gguf", "--model", "a=y.gguf"), "Error: Invalid value for --model: two models are called 'a'"),
        (("--model", "=x"), "Error: Invalid value for --model: '=x' is neither a path nor name=path"),
        (("--model", "x="), "Error: Invalid value for --model: 'x=' is neither a path nor name=path"),
        (("--model", "x" * 300), f"Error: {'x' * 300}: no such model file"),
        (("--model", "m=a\x1b[31m\n\x9b"), r"Error: a\u001b[31m\n\u009b: no such model file"),
        (("--model", "a\x1b=x"), r"Error: Invalid value for --model: the name 'a\x1b' has unprintable characters"),
        (("--model", "a\udcff.gguf"), r"Error: Invalid value for --model: the name 'a\udcff' has unprintable"),
        (("--model", "m=" + "x" * 300), f"Error: {'x' * 300}: no such model file"),
        (("--model", "x.gguf", "--host", ""), "Error: Invalid value for '--host': it is empty."),
        (("--model", "x.gguf", "--metrics-host", ","), "Error: Invalid value for '--metrics-host': it is empty."),
        (("--model", "x.gguf", "--parallel", "9", "--n-batch", "8"), "Error: --parallel must not be larger"),
        (("--model", "x.gguf", "--kv-cells", "9", "--n-ctx", "10"), "Error: --kv-cells must not be smaller"),
        (("--model", "x.gguf", "--port", "65536"), "Error: Invalid value for '--port'"),
        (("--model", "x.gguf", "--parallel", "0"), "Error: Invalid value for '--parallel'"),
        (("--model", "x.gguf", "--parallel", "257"), "Error: Invalid value for '--parallel'"),
        (("--model", "x.gguf", "--cached-sequences", "256"), "Error: Invalid value for '--cached-sequences'"),
        (("--model", "x.gguf", "--n-batch", "0"), "Error: Invalid value for '--n-batch'"),
        (("--model", "x.gguf", "--prefill-chunk", "0"), "Error: Invalid value for '--prefill-chunk'"),
        (("--model", "x.gguf", "--n-ctx", "-1"), "Error: Invalid value for '--n-ctx'"),
        (("--model", "x.gguf", "--cache-type-k", "int4"), "Error: Invalid value for '--cache-type-k'"),
        (("--model", "x.gguf", "--drain-timeout", "-1"), "Error: Invalid value for '--drain-timeout'"),
        (("--nonsense",), "Error: No such option"),
        *(
            (("--model", f"{name}=x.gguf"), f"Error: a model cannot be called '{name}'")
            for name in ("generate", "generate_stream", "model_info")
        ),
    ],
)
def test_a_rejected_value_is_reported_on_one_line(arguments: tuple[str, ...], message: str) -> None:
    assert rejection(*arguments).startswith(message)


def test_a_directory_is_rejected_as_a_model_file(tmp_path: Path) -> None:
    assert rejection("--model", str(tmp_path)).endswith(": no such model file")


def test_an_invalid_environment_variable_is_reported_like_its_option() -> None:
    env = {f"{ENV_PREFIX}_PORT": "http"}
    assert rejection("--model", "x.gguf", env=env).startswith("Error: Invalid value for '--port'")


def test_models_can_come_from_the_environment() -> None:
    assert rejection(env={f"{ENV_PREFIX}_MODEL": "a=gone.gguf b=x.gguf"}) == "Error: gone.gguf: no such model file"


def test_an_argument_overrides_models_from_the_environment() -> None:
    env = {f"{ENV_PREFIX}_MODEL": "gone.gguf"}
    assert rejection("--model", "other.gguf", env=env) == "Error: other.gguf: no such model file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve",), "Error: Missing argument 'MODEL'."),
        (("serve", "missing.gguf"), "Error: missing.gguf: no such model file"),
        (("serve", "missing.gguf", "--name", "generate"), "Error: a model cannot be called 'generate'"),
        (
            ("serve", "missing.gguf", "--name", "a=b"),
            "Error: Invalid value for '--name': a model's name must not be empty or contain '=', got 'a=b'.",
        ),
        (
            ("serve", "missing.gguf", "--name", ""),
            "Error: Invalid value for '--name': a model's name must not be empty",
        ),
        (("serve", "missing=a.gguf"), "Error: missing=a.gguf: no such model file"),
        (("serve", "missing=a.gguf", "--name", "b"), "Error: missing=a.gguf: no such model file"),
        (("serve", ""), "Error: Invalid value for MODEL: '' is not the path of a file."),
    ],
)
def test_anyserve_serve_reports_a_rejected_value_on_one_line(arguments: tuple[str, ...], message: str) -> None:
    assert only_line(CliRunner().invoke(anyserve, arguments, catch_exceptions=False)).startswith(message)
