"""Reads a file of requirements/: pins, hashes, and the packages that require each package."""

import re
from dataclasses import dataclass, field

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.packaging.commands import ROOT

PROJECT = "anyserve-openai"


@dataclass
class Lock:
    """Contents of a lock, by canonical package names."""

    pins: dict[str, Version] = field(default_factory=dict)
    markers: dict[str, Marker] = field(default_factory=dict)
    hashes: dict[str, set[str]] = field(default_factory=dict)
    """SHA-256 hashes of a package's files."""
    required_by: dict[str, set[str]] = field(default_factory=dict)
    """Packages that require a package directly; PROJECT is this one."""


def read_lock(name: str) -> Lock:
    """Reads requirements/`name`.txt. A line in a form that `make lock` doesn't write is an error.

    Of a package with a version for older Pythons as well, only the last version in the file counts, which is for newer
    ones and so for the images' Python.
    """
    lock = Lock()
    package = ""
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        if pin := re.fullmatch(r"(\S+==\S+)( ; .+)? \\", line):
            requirement = Requirement(pin[1] + (pin[2] or ""))
            package = canonicalize_name(requirement.name)
            (specifier,) = requirement.specifier
            lock.pins[package] = Version(specifier.version)
            lock.hashes[package], lock.required_by[package] = set(), set()
            if requirement.marker:
                lock.markers[package] = requirement.marker
        elif hashed := re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?", line):
            lock.hashes[package].add(hashed[1])
        elif via := re.fullmatch(r"    # (?:  |via )([\w.-]+)(?: \(.*\))?", line):
            lock.required_by[package].add(canonicalize_name(via[1]))
        else:
            assert line in ("", "    # via") or line.startswith("#"), line
    return lock
