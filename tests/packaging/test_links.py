"""Every link of a document to a place in this repository leads somewhere."""

import re
from pathlib import Path

import pytest

from tests.packaging.commands import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("*/README.md")),
    *sorted(ROOT.glob("docs/*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    places = [place for place in LINK.findall(document.read_text()) if "://" not in place]
    assert not [place for place in places if not (document.parent / place).exists()]
