"""A setup with something missing ends with one line that names it, and leaves nothing half done."""

import shutil
from pathlib import Path

import pytest

from scripts import llama_wheel, setup, toolchain
from scripts.errors import Fail
from scripts.pip import uv_variables
from tests.packaging.commands import copy_of_checkout, only_line, script

NEW: dict[str, str] = {}
# Forces compiling: there is no index, and no wheel of an earlier build.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_of_checkout(tmp_path)


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    return {**OFFLINE, "PIP_CACHE_DIR": str(tmp_path / "pip-cache"), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def path_without_compilers(folder: Path) -> str:
    folder.mkdir()
    for tool in ("sh", "uname"):
        path = shutil.which(tool)
        assert path
        (folder / tool).symlink_to(path)
    return str(folder)


def test_a_missing_compiler_is_reported_in_one_line(checkout: Path, offline: dict[str, str]) -> None:
    env = {**offline, "PATH": path_without_compilers(checkout / "bin")}
    line = only_line(script("setup", "run", env=env, cwd=checkout))
    assert line.startswith("error: no C compiler found, which is needed to compile llama.cpp (")
    assert "build-essential" in line


def test_a_broken_compiler_is_reported_in_one_line(checkout: Path, offline: dict[str, str]) -> None:
    line = only_line(script("setup", "run", env={**offline, "CXX": "false"}, cwd=checkout))
    assert "false can't compile a small C++ program" in line


def test_a_missing_git_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Fail, match=r"^git is needed to compile llama\.cpp, and is not on PATH \(.*\)$"):
        toolchain.require_git()


def test_a_failed_installation_shows_the_end_of_its_log(checkout: Path, offline: dict[str, str]) -> None:
    result = script("setup", "run", env=offline, cwd=checkout)
    assert result.returncode == 1
    *lines, last = result.stderr.splitlines()
    assert last == "error: the installation failed, see the lines above and .cache/setup.log"
    assert any("uv==" in line for line in lines)
    # Without a stamp, the next setup tries again.
    assert not (checkout / ".venv" / "anyserve-stamp.json").exists()


@pytest.fixture
def tree(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that the functions of scripts.setup work on."""
    monkeypatch.setattr(setup, "ROOT", checkout)
    monkeypatch.setattr(setup, "PYPROJECT", checkout / "pyproject.toml")
    monkeypatch.setattr(setup, "LOCKS", checkout / "requirements")
    monkeypatch.setattr(setup, "VENV", checkout / ".venv")
    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp")
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    return checkout


def test_nothing_is_done_twice(tree: Path) -> None:
    for_run = setup.wanted(NEW, "run")
    assert setup.wanted(for_run, "run") == for_run != NEW


@pytest.mark.parametrize("file", ["pyproject.toml", "requirements/run.txt", "requirements/uv.txt"])
def test_a_changed_file_is_installed(tree: Path, file: str) -> None:
    for_run = setup.wanted(NEW, "run")
    with (tree / file).open("a") as changed:
        changed.write("# a change\n")
    assert setup.wanted(for_run, "run") != for_run


def test_packages_and_options_of_earlier_runs_stay(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for_run = setup.wanted(NEW, "run")
    assert setup.wanted(for_run, "dev") != for_run
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    dev = setup.wanted(NEW, "dev")
    assert dev["llama_wheel"] != for_run["llama_wheel"]
    monkeypatch.delenv("CMAKE_ARGS")
    assert setup.wanted(dev, "run") == dev


def test_a_stamp_that_cannot_be_read_is_none(tree: Path) -> None:
    assert setup.read_stamp() == NEW
    for content in ("{", "3"):
        setup.STAMP.write_text(content)
        assert setup.read_stamp() == NEW


def test_a_symbolic_link_is_not_emptied(checkout: Path, offline: dict[str, str]) -> None:
    other = checkout.parent / "other"
    other.mkdir()
    (other / "file").touch()
    (checkout / ".venv").symlink_to(other)
    line = only_line(script("setup", "run", env=offline, cwd=checkout))
    assert line.startswith(f"error: {checkout / '.venv'} is a symbolic link")
    assert (other / "file").exists()


def test_uv_gets_the_index_of_pip() -> None:
    config = """\
:env:.find-links='/a /b'
freeze.index-url='https://ignored.example/'
global.cert='/ca.pem'
global.extra-index-url='\\nhttps://one.example/simple\\nhttps://two.example/simple'
global.find-links='/c'
global.index-url='https://index.example/simple'
global.no-index=''
"""
    assert uv_variables(config) == {
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/a,/b",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_the_key_of_a_wheel_depends_on_its_requirement() -> None:
    key = llama_wheel.key("llama-cpp-python==1", "")
    assert key == llama_wheel.key("llama-cpp-python==1", "")
    assert key != llama_wheel.key("llama-cpp-python==2", "")
    assert key != llama_wheel.key("llama-cpp-python==1", "-DGGML_CUDA=on")


@pytest.mark.parametrize(
    "changed", ["apply.py", "cmake/processor.cmake", "kernels/ggml-cpu/amx/anyserve_matmul.h", "patches"]
)
def test_the_key_of_a_wheel_depends_on_our_changes(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = tmp_path / "native"
    shutil.copytree(llama_wheel.NATIVE, native, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(llama_wheel, "NATIVE", native)
    key = llama_wheel.key("llama-cpp-python==1", "")
    (native / "README.md").write_text("nothing that is compiled")
    assert llama_wheel.key("llama-cpp-python==1", "") == key
    if changed == "patches":
        (native / "patches" / "9999-another.patch").write_text("")
    else:
        (native / changed).write_text("")
    assert llama_wheel.key("llama-cpp-python==1", "") != key
