"""Every link from a document into this repository has a target, which defines the name that the link shows."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.packaging.commands import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("*/README.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
NAME = re.compile(r"\[`([a-zA-Z_.]+)(?<!\.py)`\]\(([^)#\s:]+\.py)\)")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_have_a_target(document: Path) -> None:
    places = [place for place in LINK.findall(document.read_text()) if "://" not in place]
    assert not [place for place in places if not (document.parent / place).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_anchors_are_headings(document: Path) -> None:
    links = [link for link in ANCHOR.findall(document.read_text()) if "://" not in link[0]]
    assert not [(place, name) for place, name in links if name not in anchors(document.parent / place, document)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_that_link_to_a_module_are_defined_in_it(document: Path) -> None:
    """A link such as [`Class.method`](module.py)."""
    links = [(name, document.parent / place) for name, place in NAME.findall(document.read_text())]
    assert not [(name, place.name) for name, place in links if not set(name.split(".")) <= definitions(place)]


def anchors(place: Path, document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of `place`, or of the document if that is its folder."""
    text = (document if place.is_dir() else place).read_text()
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


@cache
def definitions(module: Path) -> set[str]:
    """Names of all classes, functions and assigned variables."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found
