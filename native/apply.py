"""Changes llama.cpp's source for our build: copies kernels/ over ggml/src, then applies patches/ in order.

    python3 apply.py SOURCE

SOURCE is the folder of an unchanged llama.cpp release; changed sources are an error. CMake runs this script when it
configures llama-cpp-python (cmake/wheel.cmake), so it needs only git and Python's standard library.

git merges the patches three-way, in a temporary repository of the files that they change. A file that equals the base
of a patch becomes exactly the patch's result; any other file is changed only where all context of a hunk is found.
patch(1) would also accept a hunk with part of its context missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NATIVE = Path(__file__).resolve().parent
KERNELS = NATIVE / "kernels"
PATCHES = NATIVE / "patches"
_CHANGED_FILE = re.compile(r"^--- a/(.+)$", re.MULTILINE)


class Unfit(Exception):
    """A patch doesn't fit the source, or git is missing. The message names the patch and the file."""


def main() -> int:
    try:
        apply(Path(sys.argv[1]))
    except Unfit as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def apply(source: Path, kernels: Path = KERNELS, patches: Path = PATCHES) -> None:
    """Raises Unfit. Patches before the one that doesn't fit remain applied."""
    shutil.copytree(kernels, source / "ggml" / "src", dirs_exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        git(source, folder, "init", "--quiet")
        for patch in in_order(patches):
            changed = [name for name in changed_files(patch) if (source / name).is_file()]
            git(source, folder, "add", "--force", "--", *changed)
            result = git(source, folder, "apply", "--3way", "--whitespace=nowarn", str(patch))
            if result.returncode:
                raise Unfit(f"{patch.name} doesn't fit the source in {source}:\n{result.stderr.strip()}")


def in_order(patches: Path) -> list[Path]:
    """Returns the patch files of a folder, by number."""
    return sorted(patches.glob("*.patch"))


def changed_files(patch: Path) -> list[str]:
    """Returns the paths that a patch changes, relative to llama.cpp's folder."""
    return _CHANGED_FILE.findall(patch.read_text())


def git(work_tree: Path, folder: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs git on the repository in `folder`, without the user's configuration. Raises Unfit if git is missing."""
    # If git runs this script, its own variables refer to another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
    env |= {"GIT_DIR": str(Path(folder).resolve()), "GIT_WORK_TREE": str(work_tree.resolve())}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=work_tree, env=env, input=text, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise Unfit("git is needed to change llama.cpp's source, and is not on PATH") from None


if __name__ == "__main__":
    sys.exit(main())
