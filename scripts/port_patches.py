"""Ports native/patches to another release of llama.cpp.

    python -m scripts.port_patches begin OLD NEW FOLDER
    python -m scripts.port_patches save FOLDER

OLD and NEW are folders with llama.cpp's sources, of the pinned release and of the next one. `begin` creates a git
repository in FOLDER with one commit per patch, and rebases them from OLD onto NEW. Resolve conflicts as in any rebase.
`save` replaces native/patches with the commits between the branches `new` and `patched`.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from native import apply
from scripts.errors import Fail, run_main

CHANGED = "ggml"
"""The folder of llama.cpp that the patches change; the repository has no other."""
_END_OF_MESSAGE = "\n---\n"
_AUTHOR = ("-c", "user.name=anyserve", "-c", "user.email=anyserve@localhost")


def main() -> int:
    match sys.argv[1:]:
        case ["begin", old, new, folder]:
            begin(Path(old), Path(new), Path(folder))
        case ["save", folder]:
            save(Path(folder))
        case _:
            raise Fail("usage: python -m scripts.port_patches begin OLD NEW FOLDER | save FOLDER")
    return 0


def begin(old: Path, new: Path, folder: Path, patches: Path = apply.PATCHES) -> None:
    """Raises Fail if a patch doesn't apply to `old`, or conflicts with `new`; the rebase then remains in progress."""
    folder.mkdir(parents=True)
    _git(folder, "init", "--quiet", "--initial-branch=new")
    _commit_tree(folder, old, "old")
    _git(folder, "switch", "--quiet", "--create=patched")
    for patch in apply.in_order(patches):
        _git(folder, "apply", "--index", "--whitespace=nowarn", str(patch.resolve()))
        _git(folder, "commit", "--quiet", "--file=-", text=message(patch))
    _git(folder, "switch", "--quiet", "new")
    _git(folder, "tag", "old")
    _commit_tree(folder, new, "new")
    _git(folder, "rebase", "--onto=new", "old", "patched")


def save(folder: Path, patches: Path = apply.PATCHES) -> None:
    """Raises Fail if the rebase is still in progress."""
    if any((folder / ".git" / name).exists() for name in ("rebase-merge", "rebase-apply")):
        raise Fail(f"the rebase in {folder} is still in progress: git -C {folder} rebase --continue")
    commits = _git(folder, "rev-list", "--reverse", "new..patched").split()
    for outdated in apply.in_order(patches):
        outdated.unlink()
    for number, commit in enumerate(commits, 1):
        text = _git(folder, "show", "--no-patch", "--format=%B", commit).strip()
        diff = _git(folder, "diff", "--full-index", "--no-renames", f"{commit}^", commit)
        subject = re.sub(r"[^a-z0-9]+", "-", text.splitlines()[0].lower()).strip("-")
        (patches / f"{number:04}-{subject}.patch").write_text(f"{text}{_END_OF_MESSAGE}{diff}")


def message(patch: Path) -> str:
    """The text above the diff: what the patch does, why, and whether llama.cpp has it."""
    return patch.read_text().partition(_END_OF_MESSAGE)[0]


def _commit_tree(folder: Path, source: Path, name: str) -> None:
    """Replaces the folder's files with the source's, and commits them."""
    shutil.rmtree(folder / CHANGED, ignore_errors=True)
    shutil.copytree(source / CHANGED, folder / CHANGED)
    _git(folder, "add", "--all", "--force", CHANGED)
    _git(folder, "commit", "--quiet", "--allow-empty", f"--message={name}")


def _git(folder: Path, *arguments: str, text: str = "") -> str:
    """Returns git's output. Raises Fail."""
    try:
        result = apply.git(folder, str(folder / ".git"), *_AUTHOR, *arguments, text=text)
    except apply.Unfit as error:
        raise Fail(str(error)) from None
    if result.returncode:
        raise Fail(f"git {' '.join(arguments)} in {folder}:\n{result.stdout}{result.stderr.strip()}")
    return result.stdout


if __name__ == "__main__":
    run_main(main)
