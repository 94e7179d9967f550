"""Our patches to llama.cpp: applied, refused where they don't fit, and ported to a new release."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from native import apply
from scripts import port_patches
from scripts.errors import Fail

OPS = "ggml/src/ops.cpp"
LINES = [f"line {number}\n" for number in range(1, 41)]
PATCHED = [*LINES[:19], '#include "ours.h"\n', *LINES[20:]]


def source(folder: Path, lines: list[str]) -> Path:
    (folder / OPS).parent.mkdir(parents=True)
    (folder / OPS).write_text("".join(lines))
    return folder


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A folder like native/ with two patches; the second one changes lines near the first one's."""
    folder = tmp_path / "native"
    (folder / "kernels").mkdir(parents=True)
    (folder / "kernels" / "ours.h").write_text("// ours\n")
    (folder / "patches").mkdir()
    repository = tmp_path / "made"
    released = source(tmp_path / "released", LINES)
    port_patches.begin(released, released, repository, folder / "patches")
    for subject, lines in [
        ("ops: call ours", PATCHED),
        ("ops: no line 22", [*PATCHED[:21], *PATCHED[22:]]),
    ]:
        (repository / OPS).write_text("".join(lines))
        commit(repository, f"{subject}\n\nBecause.\n\nUpstream: no.")
    port_patches.save(repository, folder / "patches")
    return folder


def commit(repository: Path, text: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    subprocess.run(["git", *identity, "commit", "--quiet", "--all", "-m", text], cwd=repository, check=True)


def applied(folder: Path, native: Path) -> str:
    apply.apply(folder, native / "kernels", native / "patches")
    return (folder / OPS).read_text()


def test_patches_are_applied_in_order_beside_the_kernels(native: Path, tmp_path: Path) -> None:
    names = [patch.name for patch in apply.in_order(native / "patches")]
    assert names == ["0001-ops-call-ours.patch", "0002-ops-no-line-22.patch"]
    assert applied(tmp_path / "released", native) == "".join([*PATCHED[:21], *PATCHED[22:]])
    assert (tmp_path / "released" / "ggml" / "src" / "ours.h").read_text() == "// ours\n"


def test_a_patch_finds_its_lines_after_they_moved(native: Path, tmp_path: Path) -> None:
    moved = source(tmp_path / "next", ["new\n"] * 7 + LINES)
    assert applied(moved, native) == "".join(["new\n"] * 7 + [*PATCHED[:21], *PATCHED[22:]])


@pytest.mark.parametrize(
    ("changed", "patch"), [(20, "0001-ops-call-ours.patch"), (24, "0002-ops-no-line-22.patch")], ids=str
)
def test_the_error_names_the_patch_that_does_not_fit_and_its_file(
    changed: int, patch: str, native: Path, tmp_path: Path
) -> None:
    """Line 24 is in the context of the second patch, and two lines below the context of the first."""
    lines = [*LINES[: changed - 1], "theirs\n", *LINES[changed:]]
    with pytest.raises(apply.Unfit, match=rf"^{patch} doesn't fit the source in .*(?s:.*){OPS}"):
        applied(source(tmp_path / "next", lines), native)


def test_a_source_without_the_patched_file_is_refused(native: Path, tmp_path: Path) -> None:
    empty = tmp_path / "next"
    empty.mkdir()
    with pytest.raises(apply.Unfit, match=rf"^0001-ops-call-ours\.patch (?s:.*){OPS}"):
        apply.apply(empty, native / "kernels", native / "patches")


def test_a_source_that_is_already_patched_is_refused(native: Path, tmp_path: Path) -> None:
    applied(tmp_path / "released", native)
    with pytest.raises(apply.Unfit, match=r"^0001-ops-call-ours\.patch"):
        applied(tmp_path / "released", native)


def test_the_users_git_configuration_does_not_change_the_result(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text("[core]\n\tautocrlf = true\n[apply]\n\twhitespace = error-all\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "another"))
    assert "\r" not in applied(tmp_path / "released", native)
    assert not (tmp_path / "another").exists()


def test_a_failed_patch_gives_a_message_and_a_status(tmp_path: Path) -> None:
    command = [sys.executable, apply.__file__, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{apply.in_order(apply.PATCHES)[0].name} doesn't fit the source in {tmp_path}:\n")


def test_a_missing_git_gives_a_message(native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(apply.Unfit, match=r"^git is needed"):
        applied(tmp_path / "released", native)


# ---- Porting to a new release


def test_patches_survive_a_port_to_their_own_release(native: Path, tmp_path: Path) -> None:
    before = contents(native)
    released = tmp_path / "released"
    port_patches.begin(released, released, tmp_path / "port", native / "patches")
    port_patches.save(tmp_path / "port", native / "patches")
    assert contents(native) == before


def test_a_change_near_a_patch_is_merged_and_an_upstreamed_patch_is_dropped(native: Path, tmp_path: Path) -> None:
    """The new release changes a context line, which needs a three-way merge, and contains one of our changes."""
    lines = ["new\n", *LINES[:17], "theirs\n", *LINES[18:21], *LINES[22:]]
    new = source(tmp_path / "next", lines)
    port_patches.begin(tmp_path / "released", new, tmp_path / "port", native / "patches")
    port_patches.save(tmp_path / "port", native / "patches")
    (patch,) = apply.in_order(native / "patches")
    assert port_patches.message(patch) == "ops: call ours\n\nBecause.\n\nUpstream: no."
    assert applied(new, native) == "".join([*lines[:20], '#include "ours.h"\n', *lines[21:]])


def test_a_conflict_stops_the_port_and_is_resolved_by_hand(native: Path, tmp_path: Path) -> None:
    new = source(tmp_path / "next", [*LINES[:19], "theirs\n", *LINES[20:]])
    port, patches = tmp_path / "port", native / "patches"
    with pytest.raises(Fail, match=OPS):
        port_patches.begin(tmp_path / "released", new, port, patches)
    with pytest.raises(Fail, match="is still in progress"):
        port_patches.save(port, patches)
    text = (port / OPS).read_text()
    (port / OPS).write_text(re.sub(r"<{7}(?s:.*)>{7}.*\n", 'theirs\n#include "ours.h"\n', text))
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "core.editor=true"]
    subprocess.run(["git", "add", OPS], cwd=port, check=True)
    subprocess.run(["git", *identity, "rebase", "--continue"], cwd=port, check=True, capture_output=True)
    port_patches.save(port, patches)
    assert applied(new, native).count('theirs\n#include "ours.h"\n') == 1


def contents(native: Path) -> dict[str, str]:
    return {patch.name: patch.read_text() for patch in apply.in_order(native / "patches")}


# ---- Our patches


def test_each_patch_explains_its_purpose() -> None:
    patches = apply.in_order(apply.PATCHES)
    assert [patch.name[:5] for patch in patches] == [f"{number:04}-" for number in range(1, len(patches) + 1)]
    for patch in patches:
        subject, why, *_, upstream = port_patches.message(patch).split("\n\n")
        assert re.fullmatch(r"[a-z ]+: \S.*", subject), patch.name
        assert why, patch.name
        assert upstream.startswith("Upstream: "), patch.name


def test_each_kernel_is_included_by_a_patch() -> None:
    changes = "".join(patch.read_text() for patch in apply.in_order(apply.PATCHES))
    kernels = [path for path in apply.KERNELS.rglob("*") if path.is_file()]
    assert kernels
    for kernel in kernels:
        assert f'\n+#include "{kernel.name}"\n' in changes
        folder = f"ggml/src/{kernel.relative_to(apply.KERNELS).parent}"
        assert f"\n+++ b/{folder}/" in changes
