"""Installs the foreign servers from PyPI, each into an environment of its own below .cache/foreign/.

    python -m tests.foreign.setup [triton mlserver kserve dynamo]

protobuf refuses two sets of stubs for the same messages in one process, so none of these servers shares an environment
with this project. An environment that is complete has a stamp, and is not installed again.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from scripts.locks import locked

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "foreign"
REQUIREMENTS = {
    # Contains the real tritonserver 2.51 with its Python backend.
    "triton": "nvidia-pytriton==0.7.0",
    "mlserver": "mlserver==1.7.1",
    "kserve": "kserve==0.21.0",
    # Contains the KServe front. The package ai-dynamo adds engines that this bench replaces.
    "dynamo": "ai-dynamo-runtime==1.6.1",
}
STAMP = "installed.txt"


def environment(name: str) -> Path:
    """Returns the folder of the environment, after installing it if it is missing. Raises
    subprocess.CalledProcessError."""
    folder = FOLDER / name
    stamp = folder / STAMP
    want = f"{REQUIREMENTS[name]} {sys.version}"
    with locked(FOLDER):
        if not stamp.is_file() or stamp.read_text() != want:
            print(f"installing {REQUIREMENTS[name]} into {folder.relative_to(ROOT)}", flush=True)
            _install(folder, REQUIREMENTS[name])
            stamp.write_text(want)
    return folder


def python(name: str) -> str:
    return str(environment(name) / "bin" / "python")


def site_packages(name: str) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(environment(name)), "platbase": ""}))


def _install(folder: Path, requirement: str) -> None:
    uv = Path(sys.executable).parent / "uv"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", "--only-binary", ":all:", requirement],
        check=True,
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or REQUIREMENTS:
        print(environment(name))
