"""Where the real models and the old openai client are. What is missing is fetched; if that fails, the test fails."""

from pathlib import Path

from scripts import fetch


def smollm2_path() -> Path:
    return fetch.ensure_model("smollm2")


def gemma3_path() -> Path:
    return fetch.ensure_model("gemma3")


def minilm_path() -> Path:
    return fetch.ensure_model("minilm")


def openai_028_path() -> Path:
    """A folder for PYTHONPATH, in a process of its own."""
    return fetch.ensure_openai_028()
