"""Finding pipelines in a folder, and noticing that they have changed."""

import os
import sys
from pathlib import Path

import pytest

from anyserve_worker.pipelines import folder
from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.folder import Definition, find_pipelines
from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.pipelines.options import PipelineOptions
from anyserve_worker.pipelines.settings import Settings, read_settings


def found(path: Path, python: str = "/usr/bin/other") -> dict[str, Definition]:
    return find_pipelines(PipelineOptions(path, Limits(), python, "info"))


def wrapper(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    (path / "pipeline_wrapper.py").write_text("x = 1")
    return path


def test_subfolders_with_a_wrapper_or_settings_are_pipelines(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden", "_private", "__pycache__"):
        wrapper(tmp_path, name)
    (tmp_path / "data").mkdir()
    (tmp_path / "pipeline_wrapper.py").touch()
    (tmp_path / "upstream").mkdir()
    (tmp_path / "upstream" / "pipeline.toml").write_text("kind = 'openai'")
    pipelines = found(tmp_path)
    assert list(pipelines) == ["a", "b", "upstream"]
    assert [definition.python for definition in pipelines.values()] == ["/usr/bin/other"] * 2 + [sys.executable]
    assert not any(definition.problem for definition in pipelines.values())


def test_a_folder_that_can_t_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        found(tmp_path / "none")


@pytest.mark.parametrize("name", ["chat", "a\nb"])
def test_some_names_can_t_be_served(tmp_path: Path, name: str) -> None:
    wrapper(tmp_path, name)
    assert "name" in found(tmp_path)[name].problem


def test_a_name_that_is_not_utf_8_is_refused_in_a_form_that_messages_can_have(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/a\xff")
    (tmp_path / os.fsdecode(b"a\xff") / "pipeline_wrapper.py").touch()
    [(name, definition)] = found(tmp_path).items()
    assert (name, definition.name) == (r"a\xff", r"a\xff")
    assert "unprintable" in definition.problem


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("pipeline.toml", "a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        (".env", "GOOD=1\nBAD=a-\0-secret\n", "'BAD'"),
        (".env", "'A=B'=a-secret\n", "'A=B'"),
    ],
)
def test_the_files_of_a_pipeline_never_harm_the_others(tmp_path: Path, file: str, text: str, problem: str) -> None:
    wrapper(tmp_path, "good")
    (wrapper(tmp_path, "bad") / file).write_text(text)
    pipelines = found(tmp_path)
    assert problem in pipelines["bad"].problem
    assert str(tmp_path / "bad" / file) in pipelines["bad"].problem
    assert "secret" not in pipelines["bad"].problem
    assert not pipelines["good"].problem


def test_an_unexpected_error_in_one_folder_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, _: Limits) -> Settings:
        if path.name == "bad":
            raise RuntimeError("a-secret")
        return read_settings(path, Limits())

    monkeypatch.setattr(folder, "read_settings", fail)
    for name in ("bad", "good"):
        wrapper(tmp_path, name)
    pipelines = found(tmp_path)
    assert pipelines["bad"].problem == f"{tmp_path / 'bad'}: RuntimeError while its files were read"
    assert not pipelines["good"].problem


def test_every_change_of_a_file_changes_the_fingerprint(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "a")
    wrapper(tmp_path, "b")
    seen = set()

    def is_new() -> bool:
        fingerprint = found(tmp_path)["a"].fingerprint
        is_new = fingerprint not in seen
        seen.add(fingerprint)
        return is_new

    assert is_new()
    assert not is_new()
    (path / "pipeline_wrapper.py").write_text("x = 22")
    assert is_new()
    os.utime(path / "pipeline_wrapper.py", ns=(1, 1))
    assert is_new()
    (path / "deep" / "er").mkdir(parents=True)
    assert not is_new()
    (path / "deep" / "er" / "document.txt").touch()
    assert is_new()
    (path / "deep" / "er" / "document.txt").rename(path / "deep" / "er" / "other.txt")
    assert is_new()
    (path / "pipeline.toml").touch()
    assert is_new()
    (path / "__pycache__").mkdir()
    (path / "__pycache__" / "pipeline_wrapper.pyc").touch()
    (tmp_path / "b" / "new").touch()
    assert not is_new()


def test_values_of_the_environment_are_not_part_of_the_representation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "a-secret-value")
    wrapper(tmp_path, "a")
    definition = found(tmp_path)["a"]
    assert definition.environment["A_KEY"] == "a-secret-value"
    assert "a-secret-value" not in repr(definition)
