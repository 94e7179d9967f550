"""The pods of deploy/ agree with the programs and images that run in them."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import anyserve_worker.__main__
import openai_server.__main__
from openai_server.backends.pool import RESOLVE_INTERVAL
from tests.deploy.manifests import FOLDERS, WHOLE, Pod, Resource, kustomize, of_kind, pods, program
from tests.packaging.commands import ROOT
from tests.packaging.dockerfile import exec_form, read_stages, with_ancestors
from tests.wire.fake_worker import FakeWorker
from tests.wire.sidecar import Call, running

STAGES = read_stages(ROOT / "Dockerfile")
SIDECAR = "sidecar"
WORKERS = ("worker", "worker-cuda", "worker-demo")
PODS = [(folder, pod) for folder in FOLDERS for pod in pods(folder)]
CONTAINERS = [(folder, pod, container) for folder, pod in PODS for container in pod.containers]
MARGIN = 5
"""Seconds of a grace period beyond the planned delays."""
KEPT_BY_DNS = 5
"""Seconds for which CoreDNS caches the names of Services by default."""
SECRETS = {
    "openai-server-keys": {"keys": "a-key\n"},
    "openai-server-tls": {"tls.crt": "", "tls.key": ""},
    "openai-server-store": {"url": "postgresql://sidecar:password@database/responses"},
}
Options = Callable[[Pod, Resource], dict[str, Any]]

every_pod = pytest.mark.parametrize(("folder", "pod"), PODS, ids=[f"{folder}:{pod.name}" for folder, pod in PODS])
every_container = pytest.mark.parametrize(
    ("pod", "container"),
    [(pod, container) for _, pod, container in CONTAINERS],
    ids=[f"{folder}:{container['name']}" for folder, _, container in CONTAINERS],
)


def command(container: Resource) -> click.Command:
    return openai_server.__main__.main if program(container) == SIDECAR else anyserve_worker.__main__.main


def is_in_workload(pod: Pod) -> bool:
    """Whether the pod is one of an LLMInferenceService."""
    return "kserve.io/component" in pod.labels


def value_of(variable: Resource) -> str:
    """The value of a container's environment variable."""
    if "value" in variable:
        return str(variable["value"])
    secret = variable["valueFrom"]["secretKeyRef"]
    return SECRETS[secret["name"]][secret["key"]]


@every_container
def test_metrics_are_on_the_port_of_the_api_where_a_picker_reads_them(pod: Pod, container: Resource) -> None:
    words = container["args"]
    has_admin_port = any(word.startswith("--admin-port=") for word in words)
    assert has_admin_port == (program(container) == SIDECAR and "--metrics-names=vllm" not in words)


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Options:
    """Reads a container's options as the program does; unknown or unusable options are errors."""

    def read(pod: Pod, container: Resource) -> dict[str, Any]:
        image = with_ancestors(STAGES, program(container)).environment
        environment = {**image, **{variable["name"]: value_of(variable) for variable in container.get("env", [])}}
        for name, value in environment.items():
            if name.startswith(("OPENAI_SERVER_", "ANYSERVE_WORKER_")):
                monkeypatch.setenv(name, value)
        arguments = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], word) for word in container["args"]]
        for path, secret in pod.secrets(container).items():
            (tmp_path / secret).mkdir()
            for file, content in SECRETS[secret].items():
                (tmp_path / secret / file).write_text(content)
            arguments = [word.replace(f"={path}/", f"={tmp_path / secret}/") for word in arguments]
        # The volume of components/pipelines, which the program must find.
        folders = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "pipelines"]
        for path in folders:
            arguments = [word.replace(f"={path}", f"={tmp_path}") for word in arguments]
        return command(container).make_context(container["name"], arguments).params

    return read


@every_container
def test_the_programs_accept_their_options(pod: Pod, container: Resource, options: Options) -> None:
    params = options(pod, container)
    assert params["host"] == ("::",)  # kubelet's probes and other pods connect from outside
    prefixes = ("OPENAI_SERVER", "ANYSERVE_WORKER")
    known = {f"{prefix}_{name}".upper() for name in params for prefix in prefixes}
    for variable in container.get("env", []):
        assert variable["name"] in known or f"$({variable['name']})" in " ".join(container["args"])


@every_container
def test_ports_match_the_options(pod: Pod, container: Resource, options: Options) -> None:
    params = options(pod, container)
    own, *for_operators = container["ports"]
    assert own["containerPort"] == params["port"]
    exposed = with_ancestors(STAGES, program(container)).all("EXPOSE")[-1]
    assert str(own["containerPort"]) == exposed or is_in_workload(pod)  # KServe fixes the port of the API there
    name, option = ("admin", "admin_port") if program(container) == SIDECAR else ("metrics", "metrics_port")
    numbers = {port["name"]: port["containerPort"] for port in for_operators}
    assert numbers == ({} if params[option] is None else {name: params[option]})
    for probe in (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")):
        if program(container) == SIDECAR:
            # The port of the API may have HTTPS, the admin port never has.
            of_probes = own if params["admin_port"] is None else for_operators[0]
            assert probe["httpGet"]["port"] in (of_probes["name"], of_probes["containerPort"])
            assert probe["httpGet"].get("scheme", "HTTP") == "HTTP"
        else:
            assert probe["grpc"] == {"port": own["containerPort"]}  # the default service "" means the whole server


@every_pod
def test_programs_in_a_pod_have_different_ports(folder: str, pod: Pod) -> None:
    numbers = [port["containerPort"] for container in pod.containers for port in container["ports"]]
    assert len(set(numbers)) == len(numbers)


@every_container
def test_the_log_is_json(pod: Pod, container: Resource, options: Options) -> None:
    assert options(pod, container)["log_format"] == "json"


async def test_http_probes_use_existing_paths() -> None:
    probes = {
        (kind, container[f"{kind}Probe"]["httpGet"]["path"])
        for _, _, container in CONTAINERS
        for kind in ("startup", "readiness", "liveness")
        if program(container) == SIDECAR
    }
    paths = dict(probes)
    assert len(paths) == len(probes) == 3
    worker = FakeWorker()
    async with running(worker, admin_port=0) as sidecar:

        async def answer(path: str) -> int:
            call = Call(sidecar.app.admin, "GET", path, b"", {})
            await asyncio.wait_for(call.task, 30)
            return call.reply.status

        assert {await answer(path) for path in paths.values()} == {200}
        worker.ready = False
        # The liveness probe succeeds, since a restart of the sidecar would not make the worker ready.
        statuses = {kind: await answer(path) for kind, path in paths.items()}
        assert statuses == {"startup": 200, "readiness": 503, "liveness": 200}


@every_container
def test_probes_allow_enough_time(pod: Pod, container: Resource, options: Options) -> None:
    startup, ready, live = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
    health = with_ancestors(STAGES, program(container)).all("HEALTHCHECK")[-1]
    found = re.search(r"--start-period=(\d+)([sm])", health)
    assert found
    assert startup["periodSeconds"] * startup["failureThreshold"] >= int(found[1]) * (60 if found[2] == "m" else 1)
    # A pod leaves the Service long before it is restarted.
    assert live["periodSeconds"] * live["failureThreshold"] >= 3 * ready["periodSeconds"] * ready["failureThreshold"]
    if program(container) == SIDECAR:
        assert ready["timeoutSeconds"] > options(pod, container)["lookup_timeout"]


@every_pod
def test_the_worker_starts_before_the_sidecar_and_ends_after_it(folder: str, pod: Pod) -> None:
    order = [program(container) for container in pod.containers]
    if len(order) == 1:
        return
    assert order[0] in WORKERS
    assert order[1:] == [SIDECAR]
    (worker,) = pod.spec["initContainers"]
    assert worker["restartPolicy"] == "Always"
    assert "startupProbe" in worker  # what the sidecar's start waits for
    endpoint = re.fullmatch(r"--anyserve-endpoint=127\.0\.0\.1:(\d+)", pod.spec["containers"][0]["args"][0])
    assert endpoint
    assert int(endpoint[1]) == worker["ports"][0]["containerPort"]


@every_pod
def test_grace_periods_cover_the_drain_options(folder: str, pod: Pod, options: Options) -> None:
    # Kubernetes ends sidecar containers after all others, so the times add up.
    by_name = {container["name"]: options(pod, container) for container in pod.containers}
    needed = sum(params["drain_delay"] + params["drain_timeout"] for params in by_name.values())
    assert pod.spec["terminationGracePeriodSeconds"] == needed + MARGIN
    for container in pod.containers:
        assert "lifecycle" not in container
    # The container that gets requests from other pods keeps accepting them until those have noticed its end.
    (outermost,) = pod.spec["containers"]
    noticed_after = 5 if program(outermost) == SIDECAR else KEPT_BY_DNS + RESOLVE_INTERVAL
    assert by_name[outermost["name"]]["drain_delay"] >= noticed_after
    # A worker behind its own sidecar gets no requests by then.
    assert all(by_name[c["name"]]["drain_delay"] == 0 for c in pod.spec.get("initContainers", []))


@every_pod
def test_pods_have_least_privileges(folder: str, pod: Pod) -> None:
    spec = pod.spec
    assert spec["automountServiceAccountToken"] is False
    # Variables of Services could have the names of our options' variables.
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for container in pod.containers:
        context = {**spec["securityContext"], **container["securityContext"]}
        user = f"{context['runAsUser']}:{context['runAsGroup']}"
        assert user == with_ancestors(STAGES, program(container)).all("USER")[-1]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["capabilities"] == {"drop": ["ALL"]}
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][kind].keys()
    account = spec.get("serviceAccountName")
    if account:
        accounts = {a["metadata"]["name"]: a for a in of_kind(kustomize(folder), "ServiceAccount")}
        assert accounts[account]["automountServiceAccountToken"] is False


FILES, FILES_CLAIM = "/files", "openai-server-files"
"""Path and claim of the volume of deploy/components/files, which the sidecars write."""


@every_pod
def test_mounted_volumes_exist_and_only_memory_and_files_are_writable(folder: str, pod: Pod) -> None:
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    claims = {claim["metadata"]["name"] for claim in of_kind(kustomize(folder), "PersistentVolumeClaim")}
    used: set[str] = set()
    for container in pod.containers:
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        used.update(mount["name"] for mount in mounts.values())
        memory = volumes[mounts.pop("/tmp")["name"]]["emptyDir"]
        assert memory["medium"] == "Memory"
        assert memory["sizeLimit"]
        mounts.pop(FILES, None)
        assert all(mount["readOnly"] is True for mount in mounts.values())
    assert used == set(volumes)  # and no container shares its writable volume
    for volume in volumes.values():
        if claim := volume.get("persistentVolumeClaim"):
            assert claim.get("readOnly", False) is (claim["claimName"] != FILES_CLAIM)
            assert claim["claimName"] in claims


@every_container
def test_the_worker_loads_the_model_from_its_volume(pod: Pod, container: Resource, options: Options) -> None:
    if program(container) not in WORKERS:
        return
    (model,) = options(pod, container)["models"]
    if program(container) == "worker-demo":
        assert ["--model", model] == exec_form(STAGES["worker-demo"].all("CMD")[-1])
    elif container["name"] == "kserve-container":
        assert model == f"{pod.name}=/mnt/models/model.gguf"  # KServe's path, and the name that clients request
    else:
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "models"]
        name = f"{pod.name}=" if is_in_workload(pod) else ""  # the name that KServe announces
        assert model == f"{name}{mount['mountPath']}/model.gguf"


@every_container
def test_images_are_targets_of_the_dockerfile(pod: Pod, container: Resource) -> None:
    assert program(container) in STAGES
    page = (ROOT / "docs" / "operations.md").read_text()
    assert re.search(rf"docker build --target {program(container)} +-t {container['image']} ", page)
    assert container["image"].rpartition(":")[2] == openai_server.__version__ == anyserve_worker.__version__


@pytest.mark.parametrize("folder", WHOLE)
def test_a_gpu_is_requested_if_the_image_can_use_it(folder: str) -> None:
    workers = [c for pod in pods(folder) for c in pod.containers if program(c) in WORKERS]
    assert workers
    for worker in workers:
        has_gpu = "nvidia.com/gpu" in worker["resources"]["limits"]
        assert has_gpu == (program(worker) == "worker-cuda") == (folder == "overlays/gpu")
