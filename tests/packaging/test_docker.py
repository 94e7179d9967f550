"""The Dockerfile and docker-compose.yml, as far as they can be checked without a Docker engine."""

import http.server
import re
import shutil
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from openai_server.api.docs import paths
from scripts import llama_wheel, vendor
from scripts.fetch import MODEL_FILES, SOURCES_SHA256
from scripts.lock import LOCKS
from tests.packaging import images
from tests.packaging.commands import ROOT, run
from tests.packaging.dockerfile import Stage, exec_form, read_stages, with_ancestors
from tests.packaging.lockfile import read_lock
from tests.packaging.wheels import wheel

STAGES = read_stages(ROOT / "Dockerfile")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PIPELINES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.pipelines.yml").read_text())
MODULES = {
    "sidecar": "openai_server",
    "worker": "anyserve_worker",
    "worker-cuda": "anyserve_worker",
    "worker-demo": "anyserve_worker",
}
IMAGES = sorted(MODULES)


def image(name: str) -> Stage:
    return with_ancestors(STAGES, name)


@pytest.fixture(scope="module")
def help_of() -> dict[str, str]:
    pages = {}
    for module in set(MODULES.values()):
        result = run(sys.executable, "-m", module, "--help", env={"COLUMNS": "200"})
        assert result.returncode == 0, result.stderr
        pages[module] = result.stdout
    return pages


def options_in(command: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in command if word.startswith("--")]


def test_hadolint_finds_nothing() -> None:
    result = run(str(Path(sys.executable).with_name("hadolint")), "--no-color", "Dockerfile")
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_base_images_are_pinned_to_a_version_that_we_support() -> None:
    bases = {stage.parent for stage in STAGES.values() if stage.parent not in STAGES}
    (python,) = [base for base in bases if base.startswith("python:")]
    version = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", python)
    assert version
    assert PROJECT["requires-python"] == ">=3.11"
    assert int(version[1].partition(".")[2]) >= 11
    # The folder of the library for the processor is compiled in.
    packages = f"/opt/venv/lib/python{version[1]}/site-packages"
    assert STAGES[""].arguments["PYTHON_PACKAGES"] == packages
    assert "-DANYSERVE_BACKEND_DIR=$PYTHON_PACKAGES/llama_cpp/lib" in STAGES[""].arguments["LLAMA_CMAKE_ARGS"]
    # Only for compiling: no image is based on it.
    (cuda,) = bases - {python}
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-devel-ubuntu\d\d\.04", cuda)
    assert all(image(name).parent == python for name in IMAGES)


def test_cuda_has_one_version_and_is_found_at_run_time() -> None:
    version = re.match(r"nvidia/cuda:(\d+)\.(\d+)\.", STAGES["llama-cpp-cuda"].parent)
    assert version
    libraries = read_lock("cuda").pins
    for name in ("nvidia-cuda-runtime", "nvidia-cublas"):
        assert libraries[f"{name}-cu{version[1]}"].release[:2] == (int(version[1]), int(version[2])), name
    folders = STAGES["worker-cuda"].environment["LD_LIBRARY_PATH"].split(":")
    assert folders == [f"$PYTHON_PACKAGES/nvidia/{name}/lib" for name in ("cuda_runtime", "cublas")]
    # With the libraries for processors too, so that it runs without a GPU.
    both = [STAGES[name].environment["CMAKE_ARGS"] for name in ("llama-cpp", "llama-cpp-cuda")]
    assert both == ["$LLAMA_CMAKE_ARGS", "$LLAMA_CMAKE_ARGS -DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF"]
    assert "-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON" in STAGES[""].arguments["LLAMA_CMAKE_ARGS"]


def test_make_images_builds_every_image_but_cudas() -> None:
    assert {*images.MAX_ADDED_MB, "worker-cuda"} == set(IMAGES)


def test_packages_come_from_the_locks_alone() -> None:
    used = set()
    for stage in STAGES.values():
        for commands in stage.all("RUN"):
            for command in commands.split("&&"):
                if not re.search(r"\bpip\b.* (install|wheel) ", command):
                    continue
                locks = re.findall(r"-r (?:requirements/)?([\w-]+)\.txt", command)
                used.update(locks)
                # Our packages, and wheels of an earlier stage: pip looks for nothing in an index.
                from_here = "--no-deps" in command and ("--no-index" in command or "--no-build-isolation" in command)
                assert "--require-hashes" in command if locks else from_here, command
                built = "--no-build-isolation" in command
                assert built or "--only-binary :all:" in command or "--no-index" in command, command
    assert used == set(LOCKS) - {"run", "dev", "uv"}  # of `make run` and `make setup`


@pytest.mark.parametrize("name", IMAGES)
def test_images_have_labels_and_a_list_of_their_packages(name: str) -> None:
    stage = image(name)
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in stage.labels.items()}
    assert set(labels) == {"title", "description", "version", "licenses"}
    assert (labels["version"], labels["licenses"]) == (PROJECT["version"], PROJECT["license"])
    venvs = [origin for origin, sources in stage.copies if sources == ["/opt/venv"]]
    lists = [(origin, rest) for origin, rest in stage.copies if rest == ["/src/python.cdx.json"]]
    ((origin, _),) = lists
    # The list describes the environment that is in the image, not another one.
    assert STAGES[origin].copies == [(venvs[0], ["/opt/venv"])]
    assert STAGES[origin].all("RUN")[0].startswith("cyclonedx-py environment ")


def test_the_sidecars_image_lists_the_bundle_of_its_page_too() -> None:
    listed = [source for origin, sources in image("sidecar").copies if not origin for source in sources]
    assert listed == [str(vendor.COMPONENTS.relative_to(ROOT))]


def test_the_wheel_has_every_file_of_the_page() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["openai_server.api.docs"]
    for name in (*paths.FILES.values(), f"swagger-ui/{vendor.COMPONENTS.name}"):
        assert any(Path(name).match(pattern) for pattern in patterns), name


def test_llama_cpp_is_compiled_with_our_changes() -> None:
    (include,) = re.findall(r"-DCMAKE_PROJECT_llama_cpp_INCLUDE=/src/(\S+)", STAGES[""].arguments["LLAMA_CMAKE_ARGS"])
    assert (ROOT / include) == llama_wheel.CMAKE / "wheel.cmake"
    for name in ("llama-cpp", "llama-cpp-cuda"):
        assert ["native/"] in [sources for _, sources in STAGES[name].copies]
        # native/apply.py needs git.
        assert any(re.search(r"apt-get install .* git\b", rest) for rest in STAGES[name].all("RUN")), name


def test_copied_files_exist_and_are_in_the_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    seen: set[str] = set()
    for stage in STAGES.values():
        for origin, sources in stage.copies:
            if origin:
                assert origin in seen, f"{stage.name} copies from {origin}"
                continue
            for source in sources:
                assert (ROOT / source).exists(), source
                assert Path(source).parts[0] in allowed, source
        seen.add(stage.name)
    copied = {
        Path(source).parts[0]
        for s in STAGES.values()
        for origin, sources in s.copies
        if not origin
        for source in sources
    }
    assert copied == allowed


@pytest.mark.parametrize("name", IMAGES)
def test_images_run_their_module_without_root_or_shell(name: str) -> None:
    stage = image(name)
    assert stage.all("USER")[-1] == "10001:10001"
    assert any("--uid 10001" in rest for rest in stage.all("RUN"))
    assert exec_form(stage.all("ENTRYPOINT")[-1]) == ["python", "-m", MODULES[name]]
    assert (ROOT / MODULES[name] / "__main__.py").is_file()
    assert exec_form(stage.all("HEALTHCHECK")[-1])[0] == "python"
    # The image gets a finished venv, without the tools that only a build needs.
    assert not any("pip" in rest or "gcc" in rest for rest in stage.all("RUN"))
    assert stage.environment["PATH"].startswith("/opt/venv/bin:")


@pytest.mark.parametrize("name", IMAGES)
def test_options_and_variables_exist(name: str, help_of: dict[str, str]) -> None:
    stage, page = image(name), help_of[MODULES[name]]
    commands = [exec_form(rest) for word in ("CMD", "HEALTHCHECK") for rest in stage.all(word)]
    for option in [option for command in commands for option in options_in(command)]:
        assert re.search(rf"{option}\b", page), option
    prefix = MODULES[name].upper()
    variables = [variable for variable in stage.environment if variable.startswith(prefix)]
    assert sorted(variables) == [f"{prefix}_HOST", f"{prefix}_PORT"]
    for variable in variables:
        assert variable in page
    assert stage.all("EXPOSE")[-1] == stage.environment[f"{prefix}_PORT"]


def test_versions_and_names_match_those_used_elsewhere() -> None:
    worker: list[str] = PROJECT["optional-dependencies"]["worker"]
    (pinned,) = [requirement for requirement in worker if requirement.startswith("llama-cpp-python")]
    assert [pinned] == PYPROJECT["dependency-groups"]["llama-cpp-python"]
    assert read_lock("llama-cpp-python").hashes == {"llama-cpp-python": {SOURCES_SHA256}}
    model = MODEL_FILES["smollm2"].file
    assert STAGES["worker-demo"].copies == [("model", [f"/src/.models/{model}"])]
    assert exec_form(STAGES["worker-demo"].all("CMD")[-1]) == ["--model", f"/models/{model}"]


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_sidecars_health_is_its_readiness(status: int, healthy: bool) -> None:
    python, *arguments = exec_form(STAGES["sidecar"].all("HEALTHCHECK")[-1])
    assert python == "python"
    with answering(status) as port:
        for settings in ({"PORT": str(port)}, {"PORT": "1", "ADMIN_PORT": str(port), "HOST": "127.0.0.1"}):
            variables = {"OPENAI_SERVER_HOST": image("sidecar").environment["OPENAI_SERVER_HOST"]}
            variables |= {f"OPENAI_SERVER_{name}": value for name, value in settings.items()}
            assert (run(sys.executable, *arguments, env=variables).returncode == 0) == healthy


@pytest.mark.parametrize("name", ["worker", "sidecar"])
def test_services_are_locked_down_and_built_here(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["build"]["target"] in STAGES
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_sidecar_waits_for_a_worker_that_answers(help_of: dict[str, str]) -> None:
    services = COMPOSE["services"]
    sidecar = services["sidecar"]
    assert sidecar["depends_on"] == {"worker": {"condition": "service_healthy"}}
    worker = image(services["worker"]["build"]["target"])
    port = worker.environment["ANYSERVE_WORKER_PORT"]
    assert sidecar["command"][:2] == ["--anyserve-endpoint", f"worker:{port}"]
    assert set(options_in(sidecar["command"])) <= set(re.findall(r"--[a-z-]+", help_of["openai_server"]))
    assert sidecar["ports"] == [f"127.0.0.1:8080:{image('sidecar').environment['OPENAI_SERVER_PORT']}"]


def test_the_sidecar_stores_in_a_volume_that_its_user_can_write() -> None:
    service = COMPOSE["services"]["sidecar"]
    (volume,) = service["volumes"]
    name, folder = volume.split(":")
    assert name in COMPOSE["volumes"]
    options = dict(zip(service["command"][::2], service["command"][1::2], strict=True))
    for path in (options["--store"].removeprefix("sqlite:///"), options["--blobs"]):
        assert str(Path(path).parent) == folder
    stage = image("sidecar")
    (command,) = [rest for rest in stage.all("RUN") if folder in rest.split()]
    user, group = stage.all("USER")[-1].split(":")
    assert {f"--owner={user}", f"--group={group}", "--mode=0700"} <= set(command.split())
    # An anonymous volume in the image would hide that a container without a named one loses its responses.
    assert not stage.all("VOLUME")


def test_the_worker_of_pipelines_gets_its_options_and_folders(help_of: dict[str, str]) -> None:
    worker, packages = PIPELINES["services"]["worker"], PIPELINES["services"]["packages"]
    values = dict(word.split("=") for word in worker["command"])
    assert all(re.search(rf"{option}\b", help_of["anyserve_worker"]) for option in values)
    assert ["--model", values["--model"]] == exec_form(STAGES["worker-demo"].all("CMD")[-1])
    pipelines, environment = (volume.rsplit(":", 2) for volume in worker["volumes"])
    assert values["--pipelines"] == pipelines[1]
    assert Path(values["--pipeline-python"]).is_relative_to(environment[1])
    assert [pipelines[2], environment[2]] == ["ro", "ro"]
    # The service that installs writes what the worker reads, and has the same Python.
    assert packages["volumes"] == [":".join(pipelines), ":".join(environment[:2])]
    assert packages["build"] == COMPOSE["services"]["worker"]["build"]
    assert environment[0] in PIPELINES["volumes"]
    default = re.fullmatch(r"\$\{PIPELINES:-(.+)\}", pipelines[0])
    assert default
    assert (ROOT / default[1]).is_dir()
    sidecar = image("sidecar").environment["OPENAI_SERVER_PORT"]
    assert worker["environment"]["OPENAI_BASE_URL"] == f"http://sidecar:{sidecar}/v1"


def test_the_packages_of_pipelines_are_installed_in_a_locked_down_container(tmp_path: Path) -> None:
    packages = PIPELINES["services"]["packages"]
    for key in ("read_only", "tmpfs", "cap_drop", "security_opt"):
        assert packages[key] == COMPOSE["services"]["worker"][key]
    (command,) = packages["command"]
    folder, target = tmp_path / "pipelines", tmp_path / "packages"
    (folder / "rag").mkdir(parents=True)
    (folder / "rag" / "requirements.txt").write_text(str(wheel(tmp_path, "for_rag")))
    command = command.replace("$$", "$").replace("/pipelines", str(folder)).replace("/packages", str(target))
    result = run(*packages["entrypoint"], command)
    assert result.returncode == 0, result.stderr
    assert run(str(target / "bin" / "python"), "-c", "import for_rag").returncode == 0
    (folder / "requirements.txt").write_text(str(tmp_path / "missing-1.0-py3-none-any.whl"))
    assert run(*packages["entrypoint"], command).returncode == 1


@pytest.mark.parametrize("files", [("docker-compose.yml",), ("docker-compose.yml", "docker-compose.pipelines.yml")])
def test_docker_compose_accepts_the_files_if_it_is_installed(files: tuple[str, ...]) -> None:
    docker = shutil.which("docker")
    if docker and run(docker, "compose", "version").returncode == 0:
        words = [word for file in files for word in ("--file", file)]
        result = run(docker, "compose", *words, "config", "--quiet")
        assert (result.returncode, result.stderr) == (0, "")
