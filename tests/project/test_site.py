"""The site lists every public name and every guide, and names every extra."""

import re
import sys

import pytest
from places import ROOT

import faststeer

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

API = ROOT / "docs" / "api"
MODULES = (
    "data",
    "diagnostics",
    "evaluate",
    "models",
    "ops",
    "play",
)  # a page each, by their __all__


def test_the_api_reference_has_every_public_name_of_the_top_level_once() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(API.glob("*.md")))
    listed = re.findall(
        r"^\.\. auto(?:function|class|exception):: (\w+)(?:\(\))?$", text, re.MULTILINE
    )
    modules = re.findall(r"^\.\. automodule:: faststeer\.(\w+)$", text, re.MULTILINE)
    assert sorted(modules) == sorted(MODULES)
    assert sorted([*listed, "__version__"]) == sorted(set(faststeer.__all__) - set(modules))


def test_the_start_page_leads_to_every_page() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if re.match(r"[a-z]", line)]
    guides = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    api = {f"api/{page.stem}" for page in API.glob("*.md")}
    notebooks = {f"notebooks/{p.stem}" for p in (ROOT / "examples/notebooks").glob("*.ipynb")}
    assert sorted(listed) == sorted(guides | api | notebooks)


def test_the_readme_and_the_installation_guide_name_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(project["project"]["optional-dependencies"])
    for page, cell in (
        ("README.md", r"^\| `(\w+)` \|"),
        ("docs/installation.md", r"steer\[(\w+)\]"),
    ):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(cell, text.partition("\n## Features")[0], re.MULTILINE))
        assert named == extras, page
