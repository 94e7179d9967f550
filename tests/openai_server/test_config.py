from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openai_server import __version__
from openai_server.config import OPTIONS, Config, command


@pytest.fixture
def given() -> list[Config]:
    """What the command was run with."""
    return []


def run(given: list[Config], *args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(command(given.append), args, env=env)


def test_nothing_given_is_the_defaults(given: list[Config]) -> None:
    run(given)
    assert given == [Config()]


def test_the_defaults_that_users_know() -> None:
    assert (Config().anyserve_endpoint, Config().host, Config().port) == (("localhost:8000",), "127.0.0.1", 8080)


def test_every_field_has_an_option_and_every_option_a_variable() -> None:
    assert {option.name for option in OPTIONS} == set(Config.__dataclass_fields__)
    assert {option.envvar for option in OPTIONS} == {
        f"OPENAI_SERVER_{name.upper()}" for name in Config.__dataclass_fields__
    }


def test_help_names_every_option_variable_and_default(given: list[Config]) -> None:
    text = run(given, "--help").output
    for option in OPTIONS:
        assert option.opts[0] in text
        assert str(option.envvar) in text
    assert "default: 8080" in text.replace("\n", " ")


@pytest.mark.parametrize(
    ("args", "env", "field", "value"),
    [
        (["--port", "1234"], {}, "port", 1234),
        ([], {"OPENAI_SERVER_PORT": "1234"}, "port", 1234),
        (["--port", "1"], {"OPENAI_SERVER_PORT": "2"}, "port", 1),
        (["--model-alias", "a=b", "--model-alias", "c=d=e"], {}, "model_alias", {"a": "b", "c": "d=e"}),
        ([], {"OPENAI_SERVER_MODEL_ALIAS": "a=b, c=d"}, "model_alias", {"a": "b", "c": "d"}),
        ([], {"OPENAI_SERVER_SERVED_MODEL": "x y"}, "served_model", ("x", "y")),
        (["--served-model", "x", "--served-model", "y"], {}, "served_model", ("x", "y")),
        ([], {"OPENAI_SERVER_ACCESS_LOG": "1"}, "access_log", True),
        (["--request-timeout", "0"], {}, "request_timeout", 0),
        (["--anyserve-endpoint", "a:1", "--anyserve-endpoint", "b:2,a:1"], {}, "anyserve_endpoint", ("a:1", "b:2")),
        ([], {"OPENAI_SERVER_ANYSERVE_ENDPOINT": "dns:///a:1 b:2"}, "anyserve_endpoint", ("dns:///a:1", "b:2")),
    ],
)
def test_an_option(given: list[Config], args: list[str], env: dict[str, str], field: str, value: Any) -> None:
    result = run(given, *args, env=env)
    assert result.exit_code == 0, result.output
    assert getattr(given[0], field) == value


def test_the_chat_template_is_read(given: list[Config], tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("é", encoding="utf-8")
    run(given, "--chat-template", str(tmp_path / "t.jinja"))
    assert given[0].chat_template == "é"


@pytest.mark.parametrize(
    "args",
    [
        ["--port", "70000"],
        ["--model-alias", "a"],
        ["--model-alias", "=b"],
        ["--chat-template", "nowhere.jinja"],
        ["--ping-interval", "0"],
        ["--log-level", "loud"],
        ["--anyserve-endpoint", ""],
        ["--anyserve-endpoint", "dns:///no-port"],
        ["--anyserve-endpoint", "dns://resolver/name:1"],
        ["--unknown"],
    ],
)
def test_a_mistake_is_told_and_nothing_runs(given: list[Config], args: list[str]) -> None:
    result = run(given, *args)
    assert (result.exit_code, given) == (2, [])
    assert "Error: " in result.output


def test_version(given: list[Config]) -> None:
    assert __version__ in run(given, "--version").output
