from pathlib import Path

import pytest
from click.testing import CliRunner

from anyserve_worker.pipelines.http_api.__main__ import main
from anyserve_worker.pipelines.http_api.mappings import BUILTIN


def run(path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(path)])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", [path.name for path in BUILTIN.glob("*.toml")])
def test_the_built_in_files(name: str) -> None:
    status, output = run(BUILTIN / name)
    assert status == 0
    assert output.count("POST /") == 2


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "hush")
    (tmp_path / "pipeline.toml").write_text('kind = "http"\n[http]\nuse = "ollama"\nmodel = "llama3.2"\n')
    status, output = run(tmp_path)
    assert (status, "hush" in output) == (0, False)
    assert '"model": "llama3.2"' in output
    assert '"num_predict": 100' in output


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('kind = "http"\n[http]\nuse = "olama"\n', "there is no mapping 'olama'"),
        ('kind = "openai"\n', "is of the kind `openai`"),
        ('kind = "http"\n[http]\nuse = "ollama"\nmodels = "*"\n', "models must be a table"),
    ],
)
def test_problems(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "pipeline.toml").write_text(text)
    status, output = run(tmp_path)
    assert status == 1
    assert problem in output


def test_a_request_that_the_mapping_refuses_is_shown_without_its_options(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    answer = '[answer]\ntext = "a"\nfinish.absent = "stop"\n'
    file.write_text('[request]\npath = "/x"\n[request.body]\ntext = "{last_user}"\n' + answer)
    status, output = run(file)
    assert status == 0
    assert "doesn't support 'max_tokens'" in output
