"""Options of pipelines: defaults, environment variables, and rejected values."""

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from anyserve_worker.__main__ import anyserve, main
from anyserve_worker.cli import ENV_PREFIX
from anyserve_worker.pipelines import options as pipeline_options
from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.pipelines.options import PipelineOptions

OTHER: dict[str, tuple[str, Any]] = {
    "concurrency": ("1", 1),
    "queue": ("0", 0),
    "timeout": ("0.5", 0.5),
    "idle_timeout": ("1.5", 1.5),
    "stall_timeout": ("2", 2.0),
    "memory": ("100", 100),
}
"""Arguments by field of Limits, each with a value other than the default."""


def options(folder: Path | None, *arguments: str, env: dict[str, str] | None = None) -> PipelineOptions | None:
    built = []
    params = [*pipeline_options.OPTIONS, click.Option(["--log-level"], default="info")]

    @click.command(context_settings={"auto_envvar_prefix": ENV_PREFIX}, params=params)
    def command(**values: Any) -> None:
        built.append(pipeline_options.build(folder, values))

    result = CliRunner(env=env).invoke(command, arguments, catch_exceptions=False)
    assert built, result.output
    return built[0]


def test_every_limit_has_a_test_value() -> None:
    assert OTHER.keys() == {field.name for field in fields(Limits)}


def test_the_defaults_are_those_of_the_limits(tmp_path: Path) -> None:
    assert options(tmp_path) == PipelineOptions(tmp_path, Limits(), sys.executable, "info")
    assert options(None) is None


@pytest.mark.parametrize("name", OTHER)
def test_every_limit_is_an_option_and_an_environment_variable(tmp_path: Path, name: str) -> None:
    text, value = OTHER[name]
    limits = replace(Limits(), **{name: value})
    for built in (
        options(tmp_path, f"--pipeline-{name.replace('_', '-')}", text),
        options(tmp_path, env={f"{ENV_PREFIX}_PIPELINE_{name.upper()}": text}),
    ):
        assert built
        assert built.limits == limits


@pytest.mark.parametrize(
    ("command", "arguments"), [(main, []), (anyserve, ["serve"]), (anyserve, ["pipelines"])], ids=str
)
def test_help_lists_the_options(command: click.Command, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, [*arguments, "--help"], terminal_width=100)
    text = " ".join(result.output.split())
    assert result.exit_code == 0
    for name in (*OTHER, "python"):
        assert f"--pipeline-{name.replace('_', '-')}" in text
        assert f"{ENV_PREFIX}_PIPELINE_{name.upper()}" in text
    assert ("--n-ctx" in text) == (arguments != ["pipelines"])
    assert "--drain-timeout" in text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["pipelines", "/no/such/folder"], "Error: Invalid value for 'FOLDER': Directory '/no/such/folder' does not"),
        (["pipelines"], "Error: Missing argument 'FOLDER'."),
        (["pipelines", "/", "--pipeline-timeout", "0"], "Error: Invalid value for '--pipeline-timeout'"),
        (["pipelines", "/", "--pipeline-python", "/none"], "Error: Invalid value for '--pipeline-python'"),
        (["pipelines", "/", "--n-ctx", "5"], "Error: No such option"),
    ],
)
def test_a_rejected_value_is_reported_on_one_line(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(anyserve, arguments, prog_name="anyserve")
    assert result.exit_code == 2
    [line] = result.output.splitlines()
    assert line.startswith(problem)
