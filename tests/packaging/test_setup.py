"""A setup with something missing ends with one line that names it, and leaves nothing half done."""

import shutil
from pathlib import Path

import pytest

from scripts import llama_wheel, stamp, toolchain
from scripts.errors import Fail
from scripts.stamp import Stamp
from tests.packaging.commands import copy_of_checkout, only_line, script

NEW = Stamp()
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
    line = only_line(script("setup", "worker", env=env, cwd=checkout))
    assert line.startswith("error: no C compiler found, which is needed to compile llama.cpp (")
    assert "build-essential" in line


def test_a_broken_compiler_is_reported_in_one_line(checkout: Path, offline: dict[str, str]) -> None:
    line = only_line(script("setup", "worker", env={**offline, "CXX": "false"}, cwd=checkout))
    assert "false can't compile a small C++ program" in line


def test_a_missing_git_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Fail, match=r"^git is needed to compile llama\.cpp, and is not on PATH \(.*\)$"):
        toolchain.require_git()


def test_a_failed_installation_shows_the_end_of_its_log(checkout: Path, offline: dict[str, str]) -> None:
    result = script("setup", env=offline, cwd=checkout)
    assert result.returncode == 1
    *lines, last = result.stderr.splitlines()
    assert last == "error: the installation failed, see the lines above and .cache/setup.log"
    assert any("setuptools" in line for line in lines)
    # Without a stamp, the next setup tries again.
    assert not (checkout / ".venv" / "anyserve-stamp.json").exists()


def wanted(
    have: Stamp = NEW, *, extras: str = "worker", pyproject: bytes = b"1", root: str = "/r", **env: str
) -> Stamp:
    return have.wanted(Path(root), pyproject, set(extras.split()), env)


def test_nothing_is_done_twice() -> None:
    assert wanted(wanted()) == wanted()
    assert wanted() != NEW


def test_changes_are_installed() -> None:
    assert wanted(wanted(), pyproject=b"2") != wanted()
    assert wanted(wanted(), root="/elsewhere") != wanted()
    assert wanted(wanted(), extras="worker test") != wanted()
    assert wanted(wanted(), CMAKE_ARGS="-DGGML_CUDA=on") != wanted()


def test_extras_and_cmake_args_of_earlier_runs_stay() -> None:
    everything = wanted(extras="worker test", CMAKE_ARGS="-DGGML_CUDA=on")
    assert wanted(everything) == everything


def test_a_stamp_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "stamp"
    assert stamp.read(path) == NEW
    stamp.write(path, wanted(extras="worker test"))
    assert stamp.read(path) == wanted(extras="worker test")
    path.write_text('{"extras": 3}')
    assert stamp.read(path) == NEW


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
