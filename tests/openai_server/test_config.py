from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from anyserve_common.pem_files import PEMFiles
from openai_server import __version__
from openai_server.cli import OPTIONS, command
from openai_server.config import Config
from openai_server.core.model_files import EVERY_MODEL, TemplateFile


@pytest.fixture
def configs() -> list[Config]:
    """Configurations with which the command was run."""
    return []


def run(configs: list[Config], *args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(command(configs.append), args, env=env)


def test_without_arguments_the_configuration_has_the_defaults(configs: list[Config]) -> None:
    run(configs)
    assert configs == [Config()]


def test_documented_defaults_are_unchanged() -> None:
    assert (Config().anyserve_endpoint, Config().port) == (("localhost:8000",), 8080)
    assert Config().host == ("127.0.0.1", "::1")


def test_every_field_has_an_option_and_an_environment_variable() -> None:
    assert {option.name for option in OPTIONS} == set(Config.__dataclass_fields__)
    assert {option.envvar for option in OPTIONS} == {
        f"OPENAI_SERVER_{name.upper()}" for name in Config.__dataclass_fields__
    }


def test_help_names_every_option_variable_and_default(configs: list[Config]) -> None:
    text = run(configs, "--help").output
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
        ([], {"OPENAI_SERVER_ACCESS_LOG": "0"}, "access_log", False),
        (["--no-access-log"], {}, "access_log", False),
        (["--admin-port", "0"], {}, "admin_port", 0),
        (["--host", "::", "--host", "a,b"], {}, "host", ("::", "a", "b")),
        ([], {"OPENAI_SERVER_HOST": "::1 127.0.0.2"}, "host", ("::1", "127.0.0.2")),
        (["--log-format", "json"], {}, "log_format", "json"),
        (["--request-timeout", "0"], {}, "request_timeout", 0),
        (["--anyserve-endpoint", "a:1", "--anyserve-endpoint", "b:2,a:1"], {}, "anyserve_endpoint", ("a:1", "b:2")),
        ([], {"OPENAI_SERVER_ANYSERVE_ENDPOINT": "dns:///a:1 b:2"}, "anyserve_endpoint", ("dns:///a:1", "b:2")),
        (["--anyserve-endpoint", "[::1]:1,dns:///[::1]:2"], {}, "anyserve_endpoint", ("[::1]:1", "dns:///[::1]:2")),
        (["--anyserve-endpoint", "[fe80::1%eth0]:1"], {}, "anyserve_endpoint", ("[fe80::1%eth0]:1",)),
        (["--anyserve-endpoint", "unix:/run/w.sock"], {}, "anyserve_endpoint", ("unix:/run/w.sock",)),
        (["--anyserve-endpoint", "unix:///run/w.sock,"], {}, "anyserve_endpoint", ("unix:///run/w.sock",)),
        (["--anyserve-endpoint", "unix:w,unix-abstract:w"], {}, "anyserve_endpoint", ("unix:w", "unix-abstract:w")),
        (["--anyserve-endpoint", "my_worker.1:65535"], {}, "anyserve_endpoint", ("my_worker.1:65535",)),
        (["--api-key", "a", "--api-key", "b,c"], {}, "api_key", ("a", "b", "c")),
        ([], {"OPENAI_SERVER_API_KEY": "a b,c"}, "api_key", ("a", "b", "c")),
        ([], {"OPENAI_SERVER_ITEM_KEY": f"{'a' * 32} {'b' * 32}"}, "item_key", ("a" * 32, "b" * 32)),
        (["--cors-origin", "http://localhost:3000"], {}, "cors_origin", ("http://localhost:3000",)),
        (["--cors-origin", "*"], {}, "cors_origin", ("*",)),
        (["--tls-cert", "c.pem", "--tls-key", "k.pem"], {}, "tls_files", PEMFiles(Path("c.pem"), Path("k.pem"))),
        ([], {}, "tls_files", None),
    ],
)
def test_an_option_or_its_variable_sets_its_field(
    configs: list[Config], args: list[str], env: dict[str, str], field: str, value: Any
) -> None:
    result = run(configs, *args, env=env)
    assert result.exit_code == 0, result.output
    assert getattr(configs[0], field) == value


def test_the_chat_template_file_is_read(configs: list[Config], tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("é", encoding="utf-8")
    run(configs, "--chat-template", str(tmp_path / "t.jinja"))
    assert configs[0].chat_template == {EVERY_MODEL: TemplateFile(str(tmp_path / "t.jinja"), "é")}


def test_a_model_can_have_a_chat_template_of_its_own(
    configs: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    for name in ("all", "x=y", "a=b/c", "e=f"):
        (tmp_path / name).write_text(name)
    values = ("all", "tiny=x=y", "x=y", "org/big=a=b/c", "tiny@2=e=f", "tiny@2=e=f")
    for args, env in (
        ([part for value in values if value != "x=y" for part in ("--chat-template", value)], {}),
        ([], {"OPENAI_SERVER_CHAT_TEMPLATE": "all tiny=x=y org/big=a=b/c tiny@2=e=f"}),
        (["--chat-template", "x=y"], {}),  # an existing file
        (["--chat-template", "a=b/c"], {}),
    ):
        result = run(configs, *args, env=env)
        assert result.exit_code == 0, result.output
    named = {"": "all", "tiny": "x=y", "org/big": "a=b/c", "tiny@2": "e=f"}
    files = [{model: file.path for model, file in config.chat_template.items()} for config in configs]
    assert files == [named, named, {"": "x=y"}, {"": "a=b/c"}]


def test_a_model_can_have_a_folder_that_describes_it(configs: list[Config], tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("T")
    result = run(configs, "--tokenizer", f"tiny={tmp_path}", "--tokenizer", f"org/a={tmp_path}")
    assert result.exit_code == 0, result.output
    folders = configs[0].tokenizer
    assert [(name, folder.path) for name, folder in folders.items()] == [
        ("tiny", str(tmp_path)),
        ("org/a", str(tmp_path)),
    ]
    assert folders["tiny"].parameters == {"chat_template": "T"}


def test_a_file_for_a_model_that_cannot_be_used_is_reported_with_its_problem(
    configs: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.jinja").touch()
        (tmp_path / name / "tokenizer_config.json").write_text("{}")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tokenizer_config.json").write_text("{")
    for option, values, problem in (
        ("--chat-template", ["m=none.jinja"], "can't read 'none.jinja': No such file or directory."),
        ("--chat-template", ["x/m=none.jinja"], "can't read 'x/m=none.jinja': No such file or directory."),
        ("--chat-template", ["a"], "can't read 'a': Is a directory."),
        ("--chat-template", ["a.jinja", "b.jinja"], "all models can't have both 'a.jinja' and 'b.jinja'."),
        ("--chat-template", ["m=a.jinja", "m=b.jinja"], "the model 'm' can't have both 'a.jinja' and 'b.jinja'."),
        ("--tokenizer", ["m"], "'m' does not have the form NAME=FOLDER."),
        ("--tokenizer", ["=a"], "'=a' does not have the form NAME=FOLDER."),
        ("--tokenizer", ["m=a", "m=b"], "the model 'm' can't have both 'a' and 'b'."),
        ("--tokenizer", ["m=none"], "'none' is not a folder."),
        ("--tokenizer", ["m=bad"], "'bad/tokenizer_config.json' is not JSON: "),
    ):
        result = run(configs, *(part for value in values for part in (option, value)))
        assert (result.exit_code, configs, result.output.count("\n")) == (2, [], 1)
        assert result.output.startswith(f"Error: Invalid value for '{option}' (env var: '")
        assert problem in result.output


@pytest.mark.parametrize(
    "args",
    [
        ["--port", "70000"],
        ["--model-alias", "a"],
        ["--model-alias", "=b"],
        ["--model-alias", "a="],
        ["--model-alias", "a=b", "--model-alias", "a=c"],
        ["--host", ""],
        ["--host", " , "],
        ["--chat-template", "nowhere.jinja"],
        ["--ping-interval", "0"],
        ["--log-level", "loud"],
        ["--unknown"],
    ],
)
def test_an_invalid_option_is_reported_and_the_command_does_not_run(configs: list[Config], args: list[str]) -> None:
    result = run(configs, *args)
    assert (result.exit_code, configs) == (2, [])
    assert result.output.startswith("Error: ")
    assert args[0] in result.output
    assert result.output.count("\n") == 1


FORM = "an endpoint has the form HOST:PORT ([ADDRESS]:PORT for IPv6), dns:///HOST:PORT or unix:PATH."


@pytest.mark.parametrize("source", ["option", "variable", "second option", "second of a list"])
@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("http://localhost:8000", "begins with http://"),
        ("https://localhost", "begins with https://"),
        ("grpc://localhost:8000", "begins with grpc://"),
        ("dns://resolver/name:1", "begins with dns://"),
        ("dns:///http://name:1", "begins with http://"),
        ("localhost", "has no port"),
        ("localhost:", "has no port"),
        ("dns:///name", "has no port"),
        ("[::1]", "has no port"),
        ("::1:8000", "has more than one colon"),
        ("a:1:2", "has more than one colon"),
        ("ipv4:127.0.0.1:8000", "has more than one colon"),
        (":8000", "has no host"),
        ("/run/worker.sock", "has a path"),
        ("localhost:8000/v1", "has a path"),
        *(
            (f"localhost:{port}", "has a port that is not a number from 1 to 65535")
            for port in ("0", "70000", "x", "-1", "٣")
        ),
        ("[::1]:0", "has a port that is not"),
        ("[::g]:8000", "has a host that is neither"),
        ("256.0.0.1:8000", "has a host that is neither"),
        ("a..b:8000", "has a host that is neither"),
        ("user@host:8000", "has a host that is neither"),
        ("wörker:8000", "has a host that is neither"),
        ("worker :8000", "'worker' has no port"),
        ("unix:", "has no path of a socket"),
        ("unix://run/w.sock", "has no path of a socket"),
    ],
)
def test_an_invalid_endpoint_is_reported_on_one_line_with_the_allowed_forms(
    configs: list[Config], endpoint: str, problem: str, source: str
) -> None:
    name = "OPENAI_SERVER_ANYSERVE_ENDPOINT"
    args, env = {
        "option": (["--anyserve-endpoint", endpoint], {}),
        "variable": ([], {name: endpoint}),
        "second option": (["--anyserve-endpoint", "a:1", "--anyserve-endpoint", endpoint], {}),
        "second of a list": ([], {name: f"a:1,{endpoint}"}),
    }[source]
    result = run(configs, *args, env=env)
    assert (result.exit_code, configs) == (2, [])
    assert result.output.startswith("Error: Invalid value for '--anyserve-endpoint' (env var: '")
    assert result.output.count("\n") == 1
    assert problem in result.output
    assert result.output.endswith(f"{FORM}\n")


@pytest.mark.parametrize("empty", ["", " ", ","])
def test_an_empty_endpoint_is_rejected(configs: list[Config], empty: str) -> None:
    for args, env in (
        (["--anyserve-endpoint", empty], {}),
        ([], {"OPENAI_SERVER_ANYSERVE_ENDPOINT": empty}),
        (["--anyserve-endpoint", "", "--anyserve-endpoint", "a:1"], {}),
    ):
        result = run(configs, *args, env=env)
        assert (result.exit_code, configs) == (2, [])
        assert result.output.endswith(f": it is empty; {FORM}\n")


def test_an_empty_variable_for_keys_is_rejected(configs: list[Config]) -> None:
    for name in ("API_KEY", "API_KEY_FILE", "ITEM_KEY", "ITEM_KEY_FILE"):
        result = run(configs, env={f"OPENAI_SERVER_{name}": ""})
        assert (result.exit_code, configs) == (2, [])
        assert "it is empty" in result.output


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--api-key", ""], "it is empty"),
        (["--api-key", " , "], "it is empty"),
        (["--api-key", "good", "--api-key", "schlüssel"], "key 2 has characters"),
        (["--item-key", "a" * 32, "--item-key", "b"], "key 2 has fewer than 32 characters"),
        (["--item-key-file", "nowhere"], "can't read it: No such file or directory"),
        (["--api-key-file", "nowhere"], "can't read it: No such file or directory"),
        (["--cors-origin", "chat.example.com"], "is neither of the form http://host:port"),
        (["--cors-origin", "https://chat.example.com/"], "is neither of the form http://host:port"),
        (["--tls-key", "k.pem"], "need --tls-cert"),
        (["--max-inflight-body-bytes", "1"], "less than --max-body-bytes"),
        (["--tls-client-ca", "k.pem"], "need --tls-cert"),
        (["--max-n", "129"], "not in the range"),
        (["--header-timeout", "0"], "not in the range"),
    ],
)
def test_an_unsafe_or_contradictory_option_is_rejected(configs: list[Config], args: list[str], problem: str) -> None:
    result = run(configs, *args)
    assert (result.exit_code, configs) == (2, [])
    assert problem in " ".join(result.output.split())


def test_an_error_in_a_key_file_does_not_disclose_keys(configs: list[Config], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-good\n")
    assert run(configs, "--api-key-file", str(path)).exit_code == 0
    assert configs.pop().api_key_file == path
    path.write_text("sk-good\nalice = sk-secret\n")
    result = run(configs, "--api-key-file", str(path))
    assert (result.exit_code, configs) == (2, [])
    assert "line 2 is neither" in " ".join(result.output.split())
    assert "sk-" not in result.output
    path.write_text("sk-good\n")
    result = run(configs, "--item-key-file", str(path))
    assert (result.exit_code, configs) == (2, [])
    assert "line 1 has fewer than 32 characters" in " ".join(result.output.split())
    assert "sk-" not in result.output


def test_a_key_of_two_callers_is_rejected(configs: list[Config], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice: sk-secret\nbob: sk-secret\n")
    result = run(configs, "--api-key-file", str(path))
    assert (result.exit_code, configs) == (2, [])
    assert "lines 1 and 2 have the same key" in result.output
    path.write_text("alice: sk-secret\n")
    both = run(configs, "--api-key-file", str(path), "--api-key", "sk-other,sk-secret")
    assert (both.exit_code, configs) == (2, [])
    assert both.output == f"Error: --api-key-file '{path}': it gives key 2 of --api-key to another caller.\n"
    assert "secret" not in result.output + both.output.replace(str(path), "")
    path.write_text("sk-secret\n")
    assert run(configs, "--api-key-file", str(path), "--api-key", "sk-secret").exit_code == 0


def test_keys_are_not_in_errors_help_or_the_printed_configuration(configs: list[Config]) -> None:
    for args in (["sk-secret", "--port", "x"], ["sk-secret-é"], ["sk-secret\x7f"]):
        assert "secret" not in run(configs, "--api-key", *args).output
    assert "secret" not in run(configs, "--help", env={"OPENAI_SERVER_API_KEY": "sk-secret"}).output
    run(configs, "--api-key", "sk-secret")
    assert "secret" not in repr(configs)


def test_version_prints_the_version(configs: list[Config]) -> None:
    assert __version__ in run(configs, "--version").output
