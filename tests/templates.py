"""Paths of the chat templates of many models. Missing files are fetched; if that fails, the test fails."""

from pathlib import Path

from scripts import fetch


def template_paths() -> dict[str, Path]:
    """Returns paths by file name, without the suffix."""
    return {path.stem: path for path in sorted(fetch.ensure_templates().glob("*.jinja"))}
