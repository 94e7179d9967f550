"""The locks in requirements/ agree with pyproject.toml. Needs no network."""

import importlib.metadata
import re
import tomllib
from itertools import pairwise

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lock import LLAMA, LOCKS, command
from tests.packaging.commands import ROOT, run
from tests.packaging.lockfile import PROJECT, read_lock

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = sorted(LOCKS)
(PYTHON,) = set(re.findall(r"\bpython:(\d+\.\d+)-", (ROOT / "Dockerfile").read_text()))
"""The images' Python, such as 3.12."""
IMAGE = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "extra": "",
}
"""Environment of the images, for the markers of requirements."""


def requirements_of(name: str) -> list[Requirement]:
    """Requirements that pyproject.toml lists for a lock."""
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    extras = project["optional-dependencies"]
    lines = {
        "sidecar": project["dependencies"] + extras["postgres"] + extras["files"],
        "worker": project["dependencies"] + extras["worker"] + extras["pipelines"],
        "run": project["dependencies"]
        + [line for extra in ("worker", "pipelines", "postgres", "files") for line in extras[extra]],
        "dev": project["dependencies"] + extras["worker"] + extras["test"] + extras["audit"],
        **groups,
    }[name]
    return [Requirement(line) for line in lines]


def is_left_out(name: str, package: str) -> bool:
    return name in ("worker", "run", "dev") and package == LLAMA


def test_each_lock_exists_and_no_other() -> None:
    assert sorted(path.stem for path in (ROOT / "requirements").iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_requirement_is_pinned_within_its_range_and_hashed(name: str) -> None:
    lock = read_lock(name)
    for requirement in requirements_of(name):
        package = canonicalize_name(requirement.name)
        if is_left_out(name, package):
            assert package not in lock.pins
            continue
        assert requirement.specifier.contains(lock.pins[package]), f"{requirement}: run make lock"
        if name != LLAMA:
            assert PROJECT in lock.required_by[package]
    assert all(lock.hashes.values())


@pytest.mark.parametrize("name", [name for name in NAMES if name != LLAMA])
def test_every_locked_package_is_required(name: str) -> None:
    lock = read_lock(name)
    direct = {canonicalize_name(requirement.name) for requirement in requirements_of(name)}
    for package, parents in lock.required_by.items():
        assert parents, package
        for parent in parents:
            assert parent in lock.pins or parent == PROJECT or is_left_out(name, parent), f"{package} for {parent}"
        assert (package in direct) == (PROJECT in parents), f"{package}: run make lock"


@pytest.mark.parametrize("name", ["sidecar", "worker", "run"])
def test_the_requirements_of_a_package_are_locked_too(name: str) -> None:
    """Checks the packages that are installed here in the locked version, whose metadata lists their requirements."""
    lock, seen = read_lock(name), 0
    for package in [*lock.pins, *([LLAMA] if is_left_out(name, LLAMA) else [])]:
        installed = importlib.metadata.distribution(package)
        if package in lock.pins and installed.version != str(lock.pins[package]):
            continue
        seen += 1
        for line in installed.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(IMAGE):
                version = lock.pins[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), f"{package} requires {line}"
    assert seen


def test_both_images_and_make_run_have_the_same_versions() -> None:
    both = read_lock("run")
    for lock in (read_lock("sidecar"), read_lock("worker")):
        assert lock.pins.items() <= both.pins.items()
        assert all(both.hashes[package] == hashes for package, hashes in lock.hashes.items())


def test_the_extra_for_postgresql_has_all_of_the_extra_store() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    more = {Requirement(line).name: Requirement(line).specifier for line in extras["postgres"]}
    for line in extras["store"]:
        assert more[Requirement(line).name] == Requirement(line).specifier


def test_the_build_lock_contains_the_build_system() -> None:
    assert set(PYPROJECT["build-system"]["requires"]) <= set(PYPROJECT["dependency-groups"]["build"])


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_names_no_index_and_covers_all_platforms(name: str) -> None:
    words = command(name)
    for word in ("--universal", "--generate-hashes", "--no-emit-index-url"):
        assert word in words
    assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text()


def test_make_audit_reads_every_lock() -> None:
    words = run("make", "--dry-run", "audit").stdout.split()
    read = [word for before, word in pairwise(words) if before == "-r"]
    assert sorted(read) == [f"requirements/{name}.txt" for name in NAMES]
    assert {"--strict", "--require-hashes"} <= set(words)
