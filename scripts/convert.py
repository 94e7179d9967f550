"""Converts a model from Hugging Face's form to a GGUF file with llama.cpp's own converter.

The converter needs PyTorch, which nothing else here does. So it runs in a temporary environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts import children, toolchain
from scripts.errors import Fail
from scripts.pip import Pip
from scripts.setup import CACHE

PACKAGES = ("torch==2.13.0", "transformers==4.57.6", "numpy==2.2.6", "safetensors==0.6.2")
"""transformers and numpy in the versions that llama.cpp's requirements-convert_legacy_llama.txt requires."""


def to_gguf(llama_cpp: Path, model: Path, gguf: Path, name: str) -> None:
    """Writes `gguf` with 16-bit weights.

    `llama_cpp` is the folder of its sources, `model` the folder with config.json, `name` the model's name in the file.
    """
    toolchain.require_venv()
    with tempfile.TemporaryDirectory(dir=gguf.parent) as folder:
        print(
            f"installing PyTorch temporarily, to convert {name} (200 MB if pip finds its CPU build, else gigabytes)",
            flush=True,
        )
        _run([sys.executable, "-m", "venv", f"{folder}/venv"])
        python = Path(folder, "venv", "bin", "python")
        CACHE.mkdir(exist_ok=True)
        Pip(python, CACHE / "convert.log")("install", "--no-cache-dir", *PACKAGES)
        options = ["--outfile", str(gguf), "--outtype", "f16", "--model-name", name]
        _run([str(python), str(llama_cpp / "convert_hf_to_gguf.py"), str(model), *options])


def _run(command: list[str]) -> None:
    # Offline: the converter needs nothing from a hub.
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    child = children.start(command, env=env, output=subprocess.PIPE)
    try:
        output, _ = child.communicate()
    finally:
        children.end([child])
    if child.returncode:
        print(output, file=sys.stderr)
        raise Fail(f"{Path(command[1]).name} failed, see the lines above")
