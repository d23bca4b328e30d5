"""The README's numbers are those of the committed results."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_tables_are_made_from_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    make = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))
    assert make["filled"](readme) == readme
    assert "| 4,096 |" in readme
