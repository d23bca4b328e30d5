"""Where the tests find what is not theirs: the repository, its folders and the shared data."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SUPPORT = ROOT / "tests" / "support"
SHARED_DATA = (
    ROOT.parent / "shared" / "data"
)  # data sets and texts; tests skip where they are missing
BEHAVIOURS = SHARED_DATA / "behaviours"
