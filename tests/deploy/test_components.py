"""deploy/components/: keys, TLS, and the resources for Prometheus' operator."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from openai_server.telemetry import load
from tests.deploy.manifests import (
    DEPLOY,
    WHOLE,
    WITH_COMPONENTS,
    Pod,
    Resource,
    build,
    kustomize,
    of_kind,
    pods,
    program,
)
from tests.deploy.test_traffic import METRIC, port_of
from tests.packaging.commands import run
from tests.wire.test_dashboard import scrapes

MONITORED = [folder for folder in WHOLE if of_kind(kustomize(folder), "PodMonitor")]
PROMETHEUS = {"job", "instance", "namespace", "pod", "container", "endpoint"}
"""Labels that the operator adds to all series. Prometheus renames a series' own label of the same name."""
NAME = re.compile(r"\b(?:openai_server|anyserve_worker|gen_ai)_\w+")
RULES: Resource = yaml.safe_load((DEPLOY / "components" / "alerts" / "rules.yaml").read_text())


# ---- Keys and certificates


def example_of_the_readme() -> Resource:
    """The README's kustomization with its additions."""
    text = (DEPLOY / "README.md").read_text()
    first, more, *_ = (
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    )
    assert not first.keys() & more.keys()
    whole: Resource = {**first, **more}
    for key in ("resources", "components"):
        whole[key] = [path.removeprefix("github.com/…/") for path in whole[key]]
    return whole


def test_the_sidecar_reads_the_keys_of_the_readme() -> None:
    resources = build(example_of_the_readme(), {"keys": "team: a-key\n"})
    (secret,) = of_kind(resources, "Secret")
    (deployment,) = of_kind(resources, "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (volume,) = [volume for volume in spec["volumes"] if "secret" in volume]
    # The name has no hash, so that changes to the Secret reach running pods.
    assert volume["secret"]["secretName"] == secret["metadata"]["name"] == "openai-server-keys"
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
    (file,) = secret["data"]
    assert f"--api-key-file={mount['mountPath']}/{file}" in container["args"]


@pytest.mark.parametrize("folder", WITH_COMPONENTS)
def test_only_sidecars_have_secrets_and_they_follow_changes(folder: str) -> None:
    found: list[str] = []
    for pod in pods(folder):
        # A pod without the Secret must not start, since it would serve without keys.
        assert not any(volume.get("secret", {}).get("optional") for volume in pod.spec["volumes"])
        for container in pod.containers:
            secrets = set(pod.secrets(container).values())
            assert secrets == (
                {"openai-server-keys", "openai-server-tls"} if program(container) == "sidecar" else set()
            )
            found += secrets
            # With subPath a container keeps the file that it started with.
            assert not any("subPath" in mount for mount in container["volumeMounts"])
    assert found


@pytest.mark.parametrize("folder", WITH_COMPONENTS)
def test_https_is_on_port_443(folder: str) -> None:
    services = of_kind(kustomize(folder), "Service")
    ports = [port for service in services for port in service["spec"]["ports"] if port["targetPort"] == "http"]
    assert ports == [{"name": "https", "port": 443, "targetPort": "http", "appProtocol": "https"}]


# ---- The store


def has_sidecar(pod: Pod) -> bool:
    return any(program(container) == "sidecar" for container in pod.containers)


@pytest.mark.parametrize("folder", WITH_COMPONENTS)
def test_every_sidecar_has_the_store_of_the_secret_and_nothing_else_has_it(folder: str) -> None:
    found = []
    for container in [container for pod in pods(folder) for container in pod.containers]:
        stores = [v for v in container.get("env", []) if v["name"] == "OPENAI_SERVER_STORE"]
        if program(container) != "sidecar":
            assert not stores
            continue
        (store,) = stores
        # Not optional: a pod without the Secret must not start, since it would store nothing.
        assert store["valueFrom"] == {"secretKeyRef": {"name": "openai-server-store", "key": "url"}}
        found.append(store)
    assert found


@pytest.mark.parametrize("folder", WITH_COMPONENTS)
def test_only_sidecars_may_reach_postgresql(folder: str) -> None:
    (policy,) = [
        p["spec"] for p in of_kind(kustomize(folder), "NetworkPolicy") if p["metadata"]["name"] == "anyserve-store"
    ]
    assert policy["policyTypes"] == ["Egress"]
    ((expression),) = policy["podSelector"]["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("app.kubernetes.io/name", "In")
    for pod in pods(folder):
        assert (pod.labels.get(expression["key"]) in expression["values"]) == has_sidecar(pod)
    database, names = policy["egress"]
    assert database == {"ports": [{"protocol": "TCP", "port": 5432}]}
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}


# ---- Files


@pytest.mark.parametrize("folder", WITH_COMPONENTS)
def test_every_sidecar_and_no_worker_has_the_volume_of_files(folder: str) -> None:
    (claim,) = [
        c for c in of_kind(kustomize(folder), "PersistentVolumeClaim") if c["metadata"]["name"] == "openai-server-files"
    ]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    found = []
    for pod in pods(folder):
        for container in pod.containers:
            mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "files"]
            if program(container) != "sidecar":
                assert not mounts
                continue
            (mount,) = mounts
            (volume,) = [volume for volume in pod.spec["volumes"] if volume["name"] == mount["name"]]
            assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
            (blobs,) = [v["value"] for v in container["env"] if v["name"] == "OPENAI_SERVER_BLOBS"]
            # Not the volume's root, which has folders such as lost+found and belongs to root.
            assert blobs.startswith(f"{mount['mountPath']}/")
            assert pod.spec["securityContext"]["fsGroup"] == pod.spec["securityContext"]["runAsUser"]
            found.append(blobs)
    assert found


# ---- Pipelines


@pytest.mark.parametrize("folder", WITH_COMPONENTS)
def test_every_worker_and_no_sidecar_has_the_volume_of_pipelines(folder: str) -> None:
    (claim,) = [
        c["metadata"]["name"]
        for c in of_kind(kustomize(folder), "PersistentVolumeClaim")
        if c["metadata"]["name"] == "anyserve-pipelines"
    ]
    found = []
    for pod in pods(folder):
        names = {v["name"] for v in pod.spec["volumes"] if v.get("persistentVolumeClaim", {}).get("claimName") == claim}
        for container in pod.containers:
            mounts = [mount for mount in container["volumeMounts"] if mount["name"] in names]
            if program(container) == "sidecar":
                assert not mounts
                assert "envFrom" not in container
                continue
            (mount,) = mounts
            assert mount["readOnly"]
            assert f"--pipelines={mount['mountPath']}" in container["args"]
            # A pipeline need not have variables, so a pod starts without the Secret.
            assert container["envFrom"] == [{"secretRef": {"name": "anyserve-pipelines", "optional": True}}]
            found.append(container)
    assert found


@pytest.mark.parametrize("folder", ["base with components", "gateway with components"])
def test_only_workers_may_reach_the_apis_of_pipelines(folder: str) -> None:
    (policy,) = [
        p["spec"] for p in of_kind(kustomize(folder), "NetworkPolicy") if p["metadata"]["name"] == "anyserve-pipelines"
    ]
    assert policy["policyTypes"] == ["Egress"]
    ((expression),) = policy["podSelector"]["matchExpressions"]
    for pod in pods(folder):
        has_worker = any(program(container) != "sidecar" for container in pod.containers)
        assert (pod.labels.get(expression["key"]) in expression["values"]) == has_worker
    apis, names = policy["egress"]
    assert apis == {"ports": [{"protocol": "TCP", "port": 443}]}
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}


def test_pipelines_of_the_readme_come_from_a_config_map() -> None:
    text = (DEPLOY / "README.md").read_text()
    (kustomization,) = [
        parsed
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if "configMapGenerator" in (parsed := yaml.safe_load(block))
    ]
    for key in ("resources", "components"):
        kustomization[key] = [path.removeprefix("github.com/…/") for path in kustomization[key]]
    resources = build(kustomization, {"pipeline.toml": "", "pipeline_wrapper.py": ""})
    (deployment,) = of_kind(resources, "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "pipelines"]
    assert set(volume) == {"name", "configMap"}
    (config_map,) = of_kind(resources, "ConfigMap")
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    # A ConfigMap has no folders, so each file has its path.
    paths = {item["key"]: item["path"] for item in volume["configMap"]["items"]}
    assert paths.keys() == config_map["data"].keys()
    assert all(re.fullmatch(r"[\w-]+/[\w.]+", path) for path in paths.values())


# ---- Scraping


def monitored(folder: str) -> Iterator[tuple[Resource, Resource, Resource]]:
    """Yields (monitor, endpoint, container) for each scraped container."""
    for monitor in of_kind(kustomize(folder), "PodMonitor"):
        chosen = [p for p in pods(folder) if monitor["spec"]["selector"]["matchLabels"].items() <= p.labels.items()]
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for container in [container for pod in chosen for container in pod.containers]:
                if endpoint["port"] in [port["name"] for port in container["ports"]]:
                    yield monitor, endpoint, container


@pytest.mark.parametrize("folder", MONITORED)
def test_every_program_is_scraped_once_under_its_own_job(folder: str) -> None:
    everything = [container["name"] for pod in pods(folder) for container in pod.containers]
    assert sorted(container["name"] for *_, container in monitored(folder)) == sorted(everything)
    programs: dict[str, set[str]] = {}
    for monitor, endpoint, container in monitored(folder):
        assert "path" not in endpoint  # /metrics
        programs.setdefault(monitor["metadata"]["name"], set()).add(program(container))
    # The dashboard distinguishes their process_… metrics by the job.
    assert len(programs) == 2
    assert all(len(names) == 1 for names in programs.values())


@pytest.mark.parametrize("folder", MONITORED)
def test_prometheus_may_reach_metrics_and_nothing_else(folder: str) -> None:
    (policy,) = [
        p["spec"] for p in of_kind(kustomize(folder), "NetworkPolicy") if p["metadata"]["name"] == "anyserve-metrics"
    ]
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    # Numbers, since some network plugins don't resolve port names of init containers.
    permitted = {port["port"] for port in rule["ports"]}
    scraped = set()
    for pod in pods(folder):
        assert policy["podSelector"]["matchLabels"].items() <= pod.labels.items()
        for container in pod.containers:
            scraped.add(port_of(pod, "admin" if program(container) == "sidecar" else "metrics"))
    assert permitted == scraped


async def test_prometheus_renames_none_of_our_labels() -> None:
    (sidecar, worker) = await scrapes()
    labels = [
        {label for name in scrape.names for series in scrape.series(name) for label in series}
        for scrape in (sidecar, worker)
    ]
    dropped = {
        container["name"]: {r["regex"] for r in endpoint.get("relabelings", []) if r["action"] == "labeldrop"}
        for _, endpoint, container in monitored("base with components")
    }
    assert labels[0] & PROMETHEUS == dropped["openai-server"]
    assert labels[1] & PROMETHEUS == dropped["worker"] == set()


# ---- Alerts


def alerts() -> list[Any]:
    return [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]


async def test_alerts_use_metrics_and_labels_that_exist() -> None:
    found = await scrapes()
    labels: dict[str, set[str]] = {}
    for scrape in found:
        for name in scrape.names:
            labels[name] = labels.get(name, set()).union(*scrape.series(name))
    for rule in alerts():
        expression = rule["expr"]
        names = NAME.findall(expression)
        assert names
        assert not set(names) - labels.keys(), rule["alert"]
        # All other words belong to the query language.
        rest = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)|offset \w+", "", NAME.sub("", expression))
        words = set(re.findall(r"[a-z_]\w+", rest))
        assert words <= {"sum", "rate", "absent", "and", "histogram_quantile", "avg_over_time", "max"}, rule["alert"]
        common = set.intersection(*(labels[name] for name in names)) | PROMETHEUS
        by = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        matched = set(re.findall(r"(\w+)=~?\"", expression))
        assert by | matched <= common, rule["alert"]
        shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        # Annotations can't show a label that was aggregated away.
        assert shown <= (by or common), rule["alert"]


def test_alerts_have_a_severity_and_texts() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
    readme = (DEPLOY / "README.md").read_text()
    assert set(re.findall(r"`((?:OpenAIServer|Anyserve)[A-Z]\w+)`", readme)) == set(names)


def test_promtool_accepts_the_rules_if_it_is_installed(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool:
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(RULES["spec"]))
        result = run(promtool, "check", "rules", str(tmp_path / "rules.yml"))
        assert result.returncode == 0, result.stdout + result.stderr


async def test_the_programs_export_the_metrics_of_the_autoscalers() -> None:
    (sidecar, worker) = await scrapes()
    assert sidecar.series(load.QUEUED) == [{}]
    assert [set(labels) for labels in worker.series(METRIC)] == [{"model"}]
