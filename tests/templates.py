"""Where the chat templates of many models are. What is missing is fetched; if that fails, the test fails."""

from pathlib import Path

from scripts import fetch


def template_paths() -> dict[str, Path]:
    """By the names of their files, without the ending."""
    return {path.stem: path for path in sorted(fetch.ensure_templates().glob("*.jinja"))}
