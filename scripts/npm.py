"""Fetches packages from npm."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

from scripts.errors import Fail


def fetch(package: str, version: str, integrity: str, folder: Path) -> Path:
    """Downloads a package's archive to `folder` and returns its path.

    `integrity` is `dist.integrity` of `npm view`. Raises Fail if npm is missing or fails, or if the archive differs.
    """
    if shutil.which("npm") is None:
        raise Fail(f"npm is needed to fetch {package}, and is not on PATH")
    command = ["npm", "pack", "--silent", f"--pack-destination={folder}", f"{package}@{version}"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Fail(f"{package} {version} could not be fetched: {result.stderr.strip()}")
    archive = folder / result.stdout.strip()
    with archive.open("rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if integrity != f"sha512-{digest}":
        raise Fail(f"{archive.name} arrived damaged: its integrity is not {integrity}")
    return archive
