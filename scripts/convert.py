"""Makes a GGUF file of a model in Hugging Face's form with llama.cpp's own converter.

It needs PyTorch, which nothing else here does: so it gets an environment of its own, and that is gone afterwards.
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
"""transformers and numpy as llama.cpp's requirements-convert_legacy_llama.txt wants them."""


def to_gguf(llama_cpp: Path, model: Path, gguf: Path, name: str) -> None:
    """In 16 bits. `llama_cpp`: its sources; `model`: the folder with config.json; `name`: for the file's metadata."""
    toolchain.require_venv()
    with tempfile.TemporaryDirectory(dir=gguf.parent) as folder:
        print(
            f"installing PyTorch for a while, to convert {name} (200 MB where pip finds its CPU build, else gigabytes)",
            flush=True,
        )
        _run([sys.executable, "-m", "venv", f"{folder}/venv"])
        python = Path(folder, "venv", "bin", "python")
        CACHE.mkdir(exist_ok=True)
        Pip(python, CACHE / "convert.log")("install", "--no-cache-dir", *PACKAGES)
        options = ["--outfile", str(gguf), "--outtype", "f16", "--model-name", name]
        _run([str(python), str(llama_cpp / "convert_hf_to_gguf.py"), str(model), *options])


def _run(command: list[str]) -> None:
    # The converter asks no hub for what it has.
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    child = children.start(command, env=env, output=subprocess.PIPE)
    try:
        said, _ = child.communicate()
    finally:
        children.end([child])
    if child.returncode:
        print(said, file=sys.stderr)
        raise Fail(f"{Path(command[1]).name} failed, see the lines above")
