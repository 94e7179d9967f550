import os
import re

from tests.packaging.commands import ROOT, run

MAKEFILE = (ROOT / "Makefile").read_text()


def test_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    result = run("make", "help")
    assert result.returncode == 0
    listed = re.findall(r"^  make (\w+) +\S", result.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())


def test_every_target_expands() -> None:
    for target in ("run", "test", "setup", "models", "lint", "fmt", "protos", "clean"):
        result = run("make", "--dry-run", target)
        assert (result.returncode, result.stderr) == (0, ""), target


def test_make_test_checks_everything() -> None:
    steps = run("make", "--dry-run", "test").stdout
    checks = ["ruff check", "ruff format --check", "mypy", "gen_protos.sh --check", "-m pytest"]
    places = [steps.index(check) for check in checks]
    assert places == sorted(places)


def test_ci_calls_make_test_without_stdin() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test </dev/null"
