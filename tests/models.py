"""Paths of the real models and of the old openai client. Missing files are fetched; if that fails, the test fails."""

from pathlib import Path

from scripts import fetch


def smollm2_path() -> Path:
    return fetch.ensure_model("smollm2")


def gemma3_path() -> Path:
    return fetch.ensure_model("gemma3")


def minilm_path() -> Path:
    return fetch.ensure_model("minilm")


def openai_028_path() -> Path:
    """Returns a folder for PYTHONPATH, to be used in another process."""
    return fetch.ensure_openai_028()
