"""The environment with the packages of a folder of pipelines."""

import subprocess
from pathlib import Path

import pytest

from scripts import pipeline_packages
from scripts.errors import Fail
from tests.packaging.wheels import wheel


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_packages, "ENVIRONMENTS", tmp_path / "environments")
    monkeypatch.setattr(pipeline_packages, "LOG", tmp_path / "pipelines.log")


def imports(python: Path, *modules: str) -> bool:
    return subprocess.run([python, "-c", f"import {', '.join(modules)}"], capture_output=True).returncode == 0


def pipelines(folder: Path) -> Path:
    (folder / "pipelines" / "rag").mkdir(parents=True)
    return folder / "pipelines"


def test_pipelines_without_packages_have_no_environment(tmp_path: Path) -> None:
    assert pipeline_packages.ensure(pipelines(tmp_path)) is None
    assert not pipeline_packages.ENVIRONMENTS.exists()


def test_packages_of_the_folder_and_of_each_pipeline_are_installed_once(tmp_path: Path) -> None:
    folder = pipelines(tmp_path)
    (folder / "requirements.txt").write_text(f"{wheel(tmp_path, 'for_all')}\n")
    (folder / "rag" / "requirements.txt").write_text(f"{wheel(tmp_path, 'for_rag')}\n")
    python = pipeline_packages.ensure(folder)
    assert python
    assert imports(python, "for_all", "for_rag")
    assert not imports(python, "grpc")  # it is no copy of .venv
    created = python.parent.stat().st_ctime_ns
    assert pipeline_packages.ensure(folder) == python
    assert python.parent.stat().st_ctime_ns == created


def test_another_list_makes_the_environment_anew(tmp_path: Path) -> None:
    folder = pipelines(tmp_path)
    file = folder / "rag" / "requirements.txt"
    file.write_text(f"{wheel(tmp_path, 'before')}\n")
    pipeline_packages.ensure(folder)
    file.write_text(f"{wheel(tmp_path, 'after')}\n")
    python = pipeline_packages.ensure(folder)
    assert python
    assert imports(python, "after")
    assert not imports(python, "before")


def test_a_package_that_does_not_exist_is_an_error_each_time(tmp_path: Path) -> None:
    folder = pipelines(tmp_path)
    (folder / "requirements.txt").write_text(f"{tmp_path / 'missing-1.0-py3-none-any.whl'}\n")
    for _ in range(2):
        with pytest.raises(Fail, match="installation failed"):
            pipeline_packages.ensure(folder)
