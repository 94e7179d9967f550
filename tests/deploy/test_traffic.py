"""Permitted connections, selectors and autoscaling in deploy/."""

import re

import pytest
import yaml

from openai_server.api.registry import ENDPOINTS
from openai_server.config import Config
from openai_server.telemetry import load
from tests.deploy.manifests import DEPLOY, WHOLE, Pod, Resource, kustomize, of_kind, pods, program

METRIC = "anyserve_worker_sequences_waiting"
OF_COMPONENTS = ("anyserve-metrics", "anyserve-pipelines", "anyserve-store")
"""Network policies that components add."""


def chosen(folder: str, labels: dict[str, str]) -> list[Pod]:
    assert labels
    return [pod for pod in pods(folder) if labels.items() <= pod.labels.items()]


def port_of(pod: Pod, port: int | str) -> int:
    """Number of the pod's open port with this name or number."""
    (number,) = [
        open_port["containerPort"]
        for container in pod.containers
        for open_port in container["ports"]
        if port in (open_port["name"], open_port["containerPort"])
    ]
    return int(number)


@pytest.mark.parametrize("folder", WHOLE)
def test_services_lead_to_open_ports(folder: str) -> None:
    services = of_kind(kustomize(folder), "Service")
    assert services or of_kind(kustomize(folder), "LLMInferenceService")  # KServe creates a Service of its own
    for service in services:
        found = chosen(folder, service["spec"]["selector"])
        assert found, service["metadata"]["name"]
        for pod in found:
            for port in service["spec"]["ports"]:
                number = port_of(pod, port["targetPort"])
                # A headless Service resolves to the pods' addresses, so that no port is translated.
                assert service["spec"].get("clusterIP") != "None" or port["port"] == number


@pytest.mark.parametrize("folder", WHOLE)
def test_sidecars_on_their_own_reach_every_worker(folder: str) -> None:
    headless = {
        service["metadata"]["name"]: service
        for service in of_kind(kustomize(folder), "Service")
        if service["spec"].get("clusterIP") == "None"
    }
    for pod in pods(folder):
        if [program(container) for container in pod.containers] != ["sidecar"]:
            continue
        found = re.match(r"--anyserve-endpoint=dns:///([a-z-]+):(\d+)$", pod.containers[0]["args"][0])
        assert found
        service = headless[found[1]]["spec"]
        assert int(found[2]) == service["ports"][0]["port"]
        workers = chosen(folder, service["selector"])
        assert workers
        (policy,) = [p["spec"] for p in policies_for(folder, pod)]
        to_workers, to_names = policy["egress"]
        assert chosen(folder, to_workers["to"][0]["podSelector"]["matchLabels"]) == workers
        assert port_of(workers[0], to_workers["ports"][0]["port"]) == service["ports"][0]["port"]
        for worker in workers:
            (policy,) = [p["spec"] for p in policies_for(folder, worker)]
            ((source,),) = [rule["from"] for rule in policy["ingress"]]
            assert pod in chosen(folder, source["podSelector"]["matchLabels"])
            (port,) = policy["ingress"][0]["ports"]
            assert port_of(worker, port["port"]) == service["ports"][0]["port"]
        assert {(port["protocol"], port["port"]) for port in to_names["ports"]} == {("UDP", 53), ("TCP", 53)}


def policies_for(folder: str, pod: Pod) -> list[Resource]:
    """Policies of a pod, without those of components, which test_components.py checks."""
    policies = [p for p in of_kind(kustomize(folder), "NetworkPolicy") if p["metadata"]["name"] not in OF_COMPONENTS]
    labels = pod.labels.items()
    return [policy for policy in policies if policy["spec"]["podSelector"]["matchLabels"].items() <= labels]


@pytest.mark.parametrize("folder", ["base", "gateway", "base with components", "gateway with components"])
def test_pods_are_reachable_on_one_port_and_connect_only_to_workers(folder: str) -> None:
    for pod in pods(folder):
        (policy,) = [policy["spec"] for policy in policies_for(folder, pod)]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        (ingress,) = policy["ingress"]
        (port,) = ingress["ports"]
        serves = next(c for c in reversed(pod.containers) if c["ports"][0]["name"] == port["port"])
        if program(serves) == "sidecar":
            assert "from" not in ingress
        else:  # only our sidecars may send tensors to a worker
            (source,) = ingress["from"]
            for client in chosen(folder, source["podSelector"]["matchLabels"]):
                assert program(client.containers[0]) == "sidecar"
        has_worker_inside = len(pod.containers) == 2 or program(pod.containers[0]) != "sidecar"
        assert (policy["egress"] == []) == has_worker_inside


@pytest.mark.parametrize("folder", WHOLE)
def test_selectors_match_only_their_own_pods(folder: str) -> None:
    resources = kustomize(folder)
    for deployment in of_kind(resources, "Deployment"):
        name = deployment["metadata"]["name"]
        spec = deployment["spec"]
        (pod,) = chosen(folder, spec["selector"]["matchLabels"])
        assert pod.name == name
        for spread in pod.spec["topologySpreadConstraints"]:
            assert chosen(folder, spread["labelSelector"]["matchLabels"]) == [pod]
        (budget,) = [
            b["spec"]
            for b in of_kind(resources, "PodDisruptionBudget")
            if chosen(folder, b["spec"]["selector"]["matchLabels"]) == [pod]
        ]
        # With one pod, minAvailable would block every drain of its node.
        assert budget["maxUnavailable"] == 1
        assert "minAvailable" not in budget


@pytest.mark.parametrize(
    ("folder", "kind"), [("overlays/autoscale", "HorizontalPodAutoscaler"), ("overlays/keda", "ScaledObject")]
)
def test_only_the_autoscaler_sets_the_number_of_pods(folder: str, kind: str) -> None:
    resources = kustomize(folder)
    (scaler,) = of_kind(resources, kind)
    target = scaler["spec"]["scaleTargetRef"]
    (deployment,) = of_kind(resources, target["kind"])
    assert (deployment["metadata"]["name"], deployment["apiVersion"]) == (target["name"], target["apiVersion"])
    # Otherwise each `kubectl apply` would reset it.
    assert "replicas" not in deployment["spec"]


def test_all_scale_on_the_same_metric() -> None:
    (scaler,) = of_kind(kustomize("overlays/autoscale"), "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"] == {"name": METRIC}
    rules = yaml.safe_load((DEPLOY / "overlays/autoscale/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (rule,) = rules
    assert rule["seriesQuery"].partition("{")[0] == METRIC
    assert rule["name"] == {"matches": f"^{METRIC}$", "as": METRIC}
    (service,) = of_kind(kustomize("overlays/kserve-autoscale"), "InferenceService")
    (kserve,) = service["spec"]["predictor"]["autoScaling"]["metrics"]
    query = kserve["external"]["metric"]["query"]
    assert METRIC in query
    # The pods of the service's own Deployment.
    assert f'pod=~"{service["metadata"]["name"]}-predictor-.*"' in query


def test_keda_scales_like_the_autoscaler_on_the_queue_of_these_pods() -> None:
    (scaler,) = of_kind(kustomize("overlays/autoscale"), "HorizontalPodAutoscaler")
    (scaled,) = of_kind(kustomize("overlays/keda"), "ScaledObject")
    limits = scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]
    assert limits == (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"])
    assert scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == scaler["spec"]["behavior"]
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["threshold"] == scaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
    query = trigger["metadata"]["query"]
    assert load.QUEUED in query
    assert f'pod=~"{scaled["spec"]["scaleTargetRef"]["name"]}-.*"' in query


def test_the_pool_and_its_route_lead_to_the_api() -> None:
    resources = kustomize("overlays/inference-pool")
    (pool,) = of_kind(resources, "InferencePool")
    (pod,) = chosen("overlays/inference-pool", pool["spec"]["selector"]["matchLabels"])
    ((port),) = [port["number"] for port in pool["spec"]["targetPorts"]]
    assert port_of(pod, "http") == port
    (route,) = of_kind(resources, "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    group = pool["apiVersion"].partition("/")[0]
    assert backend == {"group": group, "kind": pool["kind"], "name": pool["metadata"]["name"]}
    # Neither metrics nor health checks are reachable through the gateway.
    ((match),) = rule["matches"]
    paths = [path for endpoint in ENDPOINTS if endpoint.is_administration for path in endpoint.paths]
    assert paths
    assert not [path for path in paths if f"{path}/".startswith(f"{match['path']['value']}/")]
    assert rule["timeouts"]["request"] == f"{Config().request_timeout:g}s"


def test_the_pods_of_an_llm_inference_service_are_reachable_on_the_port_of_the_api() -> None:
    folder = "llm-inference-service"
    (pod,) = pods(folder)
    assert pod.containers[-1]["name"] == "main"
    assert port_of(pod, 8000) == pod.containers[-1]["ports"][0]["containerPort"]
    (policy,) = policies_for(folder, pod)
    assert policy["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]


def test_kserve_finds_the_runtime_for_the_model() -> None:
    resources = kustomize("kserve")
    (runtime,) = of_kind(resources, "ServingRuntime")
    (service,) = of_kind(resources, "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [known["name"] for known in runtime["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["protocolVersion"] == "grpc-v2"
