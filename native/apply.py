"""Changes llama.cpp's source for our build: copies kernels/ over ggml/src, then applies patches/ in their order.

    python3 apply.py SOURCE

SOURCE is the folder of llama.cpp as it was released; a source that was changed before is an error. CMake runs this when
it configures llama-cpp-python (cmake/wheel.cmake), so the file needs git and Python's standard library alone.

The patches are merged three-way by git, in a throw-away repository of the files that they change: a file that is the
one that a patch was made from becomes exactly the one that it was made into, another one is changed only where all
context of a hunk is found. patch(1) would also accept a hunk of which a part of the context is gone.
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
    """Raises Unfit. The patches before the one that doesn't fit are applied then."""
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
    """The patch files of a folder, by their numbers."""
    return sorted(patches.glob("*.patch"))


def changed_files(patch: Path) -> list[str]:
    """The paths that a patch changes, from llama.cpp's folder on."""
    return _CHANGED_FILE.findall(patch.read_text())


def git(work_tree: Path, folder: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs git on the repository in `folder`, without the user's configuration. Raises Unfit if there is no git."""
    # What a git that runs us has in its environment is about its own repository.
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
