"""Builds the folders of deploy/ with kubectl, and the pods that Kubernetes and KServe create from the result."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.packaging.commands import ROOT, run

DEPLOY = ROOT / "deploy"
_ALL = sorted(str(path.parent.relative_to(DEPLOY)) for path in DEPLOY.rglob("kustomization.yaml"))
COMPONENTS = [folder for folder in _ALL if folder.startswith("components/")]
IN_DEPLOY = [folder for folder in _ALL if folder not in COMPONENTS]
WITH_COMPONENTS = [f"{folder} with components" for folder in ("base", "gateway", "kserve")]
"""Folders with all components."""
FOLDERS = [*IN_DEPLOY, *WITH_COMPONENTS]
WHOLE = [folder for folder in FOLDERS if not folder.startswith("gateway/")]
"""Folders that serve requests without another folder."""
Resource = dict[str, Any]


def kustomize(folder: str) -> list[Resource]:
    """Resources of a folder, as a copy that the caller may change."""
    return deepcopy(_built(folder))


@cache
def _built(folder: str) -> list[Resource]:
    if folder not in WITH_COMPONENTS:
        return _build(DEPLOY / folder)
    return build(
        {"resources": [f"deploy/{folder.partition(' ')[0]}"], "components": [f"deploy/{c}" for c in COMPONENTS]}
    )


def build(kustomization: Resource, files: Mapping[str, str] = {}) -> list[Resource]:
    """Builds a kustomization such as a user writes, beside `files`. Its paths into `deploy/` are replaced with ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        deploy = os.path.relpath(DEPLOY, folder)  # kustomize accepts no absolute path
        for key in ("resources", "components"):
            kustomization = {**kustomization, key: [path.replace("deploy", deploy, 1) for path in kustomization[key]]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        for file, content in files.items():
            (folder / file).write_text(content)
        return _build(folder)


def _build(folder: Path) -> list[Resource]:
    result = run(str(Path(sys.executable).with_name("kubectl")), "kustomize", str(folder))
    # No warnings either, such as those of deprecated fields.
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return list(yaml.safe_load_all(result.stdout))


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


@dataclass(frozen=True)
class Pod:
    name: str
    labels: Mapping[str, str]
    spec: Resource

    @property
    def containers(self) -> list[Resource]:
        """All containers, in the order in which they start."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def container(self, image: str) -> Resource:
        (found,) = [container for container in self.containers if program(container) == image]
        return found

    def secrets(self, container: Resource) -> dict[str, str]:
        """Names of the Secrets that a container mounts, by path."""
        names = {v["name"]: v["secret"]["secretName"] for v in self.spec["volumes"] if "secret" in v}
        mounts = container["volumeMounts"]
        return {mount["mountPath"]: names[mount["name"]] for mount in mounts if mount["name"] in names}


def program(container: Resource) -> str:
    """The Dockerfile's target that builds the container's image."""
    repository: str = container["image"].rpartition(":")[0]
    return {"openai-server": "sidecar"}.get(repository, repository.removeprefix("anyserve-"))


def pods(folder: str) -> Iterator[Pod]:
    resources = kustomize(folder)
    for deployment in of_kind(resources, "Deployment"):
        template = deployment["spec"]["template"]
        yield Pod(deployment["metadata"]["name"], template["metadata"]["labels"], template["spec"])
    for service in of_kind(resources, "InferenceService"):
        yield _predictor(service, of_kind(resources, "ServingRuntime"))
    for service in of_kind(resources, "LLMInferenceService"):
        yield _workload(service)


def _workload(service: Resource) -> Pod:
    """The pod that KServe creates, without what its own template adds."""
    name = service["metadata"]["name"]
    labels = {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": "llminferenceservice",
        "kserve.io/component": "workload",
    }
    return Pod(name, labels, service["spec"]["template"])


def _predictor(service: Resource, runtimes: list[Resource]) -> Pod:
    """The pod that KServe creates: the runtime's containers, with the service's settings for the model's container."""
    predictor = service["spec"]["predictor"]
    model = predictor.pop("model")
    (runtime,) = [r["spec"] for r in runtimes if r["metadata"]["name"] == model["runtime"]]
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container"
    environment = {variable["name"]: variable for variable in [*container["env"], *model.get("env", [])]}
    container["env"] = list(environment.values())
    name = service["metadata"]["name"]
    container["args"] = [word.replace("{{.Name}}", name) for word in container["args"]]
    spec = {**predictor, "containers": [container], "volumes": runtime["volumes"]}
    labels = {**runtime["labels"], "serving.kserve.io/inferenceservice": name, "component": "predictor"}
    return Pod(name, labels, spec)
