"""The documents' numbers match the committed results, and their links resolve."""

import re
from pathlib import Path

import pytest
from fill_tables import PAGES, filled
from places import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_tables_match_the_committed_results(page: str) -> None:
    there = (ROOT / page).read_text(encoding="utf-8")
    assert filled(page) == there
    assert re.search(r"\| \d", there)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_target_of_a_document_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        target = document.parent / link
        if link.startswith("notebooks/"):  # where building the site copies them
            target = ROOT / "examples" / link
        assert target.exists(), link


def test_the_readme_lists_every_example() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Examples")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+\.py)`", section, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "examples").glob("*.py")}
