from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.deploy.manifests import COMPONENTS, DEPLOY, FOLDERS, IN_DEPLOY, kustomize, of_kind
from tests.deploy.schemas import NEWEST, check

OLDEST = {"overlays/model-image": "1.33"}
"""Oldest version of Kubernetes by folder, if it is newer than OLDEST_OF_ALL."""
OLDEST_OF_ALL = "1.30"


def test_the_readme_names_each_folder_and_what_it_needs() -> None:
    readme = (DEPLOY / "README.md").read_text()
    assert f"Kubernetes {OLDEST_OF_ALL} or newer" in readme
    for folder, version in OLDEST.items():
        assert f"Kubernetes {version} or newer" in (DEPLOY / folder / "kustomization.yaml").read_text()
    for folder in (*IN_DEPLOY, *COMPONENTS):
        assert f"]({folder}" in readme, folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_field_is_in_the_schemas(folder: str) -> None:
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
"""Fields whose keys are free, rather than fields of a schema."""


def spoilt_copies(folder: str) -> Iterator[dict[str, Any]]:
    """Copies of the folder's resources, each with an unknown field in another object."""
    for number in range(len(kustomize(folder))):
        place = 0
        while True:
            resource = kustomize(folder)[number]
            # By identity, because equal objects are in several places.
            free = {id(value) for part in objects_in(resource) for key, value in part.items() if key in FREE}
            parts = [part for part in objects_in(resource) if id(part) not in free or "matchLabels" in part]
            if place == len(parts):
                break
            parts[place]["nonsense"] = 1
            yield resource
            place += 1


@pytest.mark.parametrize(
    "folder",
    [
        "base with components",
        "kserve",
        "llm-inference-service",
        "overlays/autoscale",
        "overlays/inference-pool",
        "overlays/keda",
        "overlays/kserve-autoscale",
    ],
)
def test_an_unknown_field_is_found_in_every_object(folder: str) -> None:
    """With a schema that accepts anything somewhere, the test above would prove nothing there."""
    tried = 0
    for resource in spoilt_copies(folder):
        with pytest.raises(jsonschema.ValidationError):
            check(resource)
        tried += 1
    assert tried > 50


def test_a_missing_required_field_is_found() -> None:
    (runtime,) = of_kind(kustomize("kserve"), "ServingRuntime")
    del runtime["spec"]["containers"]
    with pytest.raises(jsonschema.ValidationError, match="'containers' is a required property"):
        check(runtime)
