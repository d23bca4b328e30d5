"""Paths of the repository, its folders and the shared data."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SUPPORT = ROOT / "tests" / "support"
# Data sets and texts; a test is skipped if those that it needs are missing.
SHARED_DATA = ROOT.parent / "shared" / "data"
BEHAVIOURS = SHARED_DATA / "behaviours"
