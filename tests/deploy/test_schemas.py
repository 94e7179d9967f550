from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.deploy.manifests import COMPONENTS, DEPLOY, FOLDERS, IN_DEPLOY, kustomize, of_kind
from tests.deploy.schemas import NEWEST, check

OLDEST = {"overlays/model-image": "1.33"}
"""Of Kubernetes, where it is not the one below."""
OLDEST_OF_ALL = "1.30"


def test_the_readme_names_each_folder_and_what_it_needs() -> None:
    readme = (DEPLOY / "README.md").read_text()
    assert f"Kubernetes {OLDEST_OF_ALL} or newer" in readme
    for folder, version in OLDEST.items():
        assert f"Kubernetes {version} or newer" in (DEPLOY / folder / "kustomization.yaml").read_text()
    for folder in (*IN_DEPLOY, *COMPONENTS):
        assert f"]({folder}" in readme, folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_kserve_and_prometheus_know_every_field(folder: str) -> None:
    for resource in kustomize(folder):
        for version in (OLDEST.get(folder, OLDEST_OF_ALL), NEWEST):
            check(resource, version)


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from objects_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from objects_in(part)


FREE = ("labels", "annotations", "matchLabels", "selector", "requests", "limits")
"""Their keys are not fields."""


def spoilt_copies(folder: str) -> Iterator[dict[str, Any]]:
    """Each resource with a field that there is not, in each of its objects in turn."""
    for number in range(len(kustomize(folder))):
        place = 0
        while True:
            resource = kustomize(folder)[number]
            # By identity: equal objects stand in several places.
            free = {id(value) for part in objects_in(resource) for key, value in part.items() if key in FREE}
            parts = [part for part in objects_in(resource) if id(part) not in free or "matchLabels" in part]
            if place == len(parts):
                break
            parts[place]["nonsense"] = 1
            yield resource
            place += 1


@pytest.mark.parametrize(
    "folder", ["base with components", "kserve", "overlays/autoscale", "overlays/kserve-autoscale"]
)
def test_a_field_that_is_not_known_would_be_found(folder: str) -> None:
    """Wherever it stands: a schema with a hole would let the test above pass."""
    tried = 0
    for resource in spoilt_copies(folder):
        with pytest.raises(jsonschema.ValidationError):
            check(resource)
        tried += 1
    assert tried > 50


def test_a_required_field_that_is_missing_would_be_found() -> None:
    (runtime,) = of_kind(kustomize("kserve"), "ServingRuntime")
    del runtime["spec"]["containers"]
    with pytest.raises(jsonschema.ValidationError, match="'containers' is a required property"):
        check(runtime)
