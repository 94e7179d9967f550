import os
import re
import sys
from pathlib import Path

import pytest

from tests.packaging.commands import ROOT, run

MAKEFILE = (ROOT / "Makefile").read_text()


def test_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    result = run("make", "help")
    assert result.returncode == 0
    listed = re.findall(r"^  make ([\w-]+) +\S", result.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())


def test_make_can_expand_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    for target in phony[1].split():
        result = run("make", "--dry-run", target)
        assert (result.returncode, result.stderr) == (0, ""), target


def test_commands_may_keep_their_byte_code() -> None:
    """Some images set the variable for all programs, which makes each of ours compile its modules again."""
    printed = run("make", "--eval=environment: ; @env", "environment", env={"PYTHONDONTWRITEBYTECODE": "1", "A": "b"})
    assert "A=b" in printed.stdout
    assert "PYTHONDONTWRITEBYTECODE" not in printed.stdout


def test_make_test_checks_everything() -> None:
    steps = run("make", "--dry-run", "test").stdout
    for check in ("ruff check", "ruff format --check", "mypy", "gen_protos.sh --check", "-m pytest"):
        assert check in steps


def test_ci_calls_make_without_stdin() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test test-foreign </dev/null"


@pytest.mark.parametrize(
    ("body", "code"), [("pass", 0), ("pytest.skip('not now')", 1), ("assert False", 1), ("pytest.exit('')", 2)]
)
def test_a_run_with_a_skipped_test_fails(tmp_path: Path, body: str, code: int) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(f"import pytest\ndef test_it() -> None:\n    {body}\n")
    result = run(sys.executable, "-m", "pytest", "-p", "tests.no_skips", f"--rootdir={tmp_path}", str(test))
    assert result.returncode == code
    assert ("make test allows none" in result.stdout) == ("skip" in body)


def test_a_run_without_tests_fails() -> None:
    result = run(
        sys.executable, "-m", "pytest", "-p", "tests.no_skips", "tests/packaging/test_makefile.py", "-k", "nothing"
    )
    assert result.returncode == 5


def test_make_lint_checks_tables_and_words() -> None:
    steps = run("make", "--dry-run", "lint").stdout
    for check in ("scripts.readme --check", "scripts.plain_english"):
        assert check in steps
