"""The Python blocks of the documents run, page by page, in order."""

import re
from pathlib import Path

import pytest
from places import ROOT

import faststeer

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)  # ```py blocks are not run
CODE = {path.name: BLOCKS.findall(path.read_text(encoding="utf-8")) for path in DOCUMENTS}


@pytest.mark.filterwarnings("ignore::faststeer.FaststeerWarning")
@pytest.mark.parametrize("page", [name for name, blocks in CODE.items() if blocks])
def test_the_python_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    try:
        for number, block in enumerate(CODE[page], 1):
            exec(compile(block, f"{page}, block {number}", "exec"), namespace)
    finally:
        faststeer.uninstall()
