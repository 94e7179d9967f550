"""The disk of a sidecar is full, and has room again."""

import os
import shutil
import subprocess

import pytest

from tests.ops.full_disk import full_blobs, full_database

pytestmark = pytest.mark.slow


COMMAND = ("unshare", "--user", "--map-root-user", "--mount", "true")


def has_namespaces() -> bool:
    """Whether a small disk can be mounted; not on a Mac."""
    has_program = shutil.which(COMMAND[0]) is not None
    if has_program and subprocess.run(COMMAND, check=False, capture_output=True).returncode == 0:
        return True
    assert "CI" not in os.environ, "namespaces are needed for a small disk"
    return False


def test_files_uploads_and_batches_survive_full_blobs() -> None:
    assert not has_namespaces() or full_blobs() == []


def test_a_full_database_is_a_clear_error() -> None:
    assert not has_namespaces() or full_database() == []
