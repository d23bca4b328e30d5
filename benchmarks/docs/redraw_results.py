"""Draw the figures of results again from their data, after a change of style.

    python benchmarks/docs/redraw_results.py docs/results/*

Only the PNG files change: `outcome.json` and the figures' data stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from faststeer.experiments import results_in


def main(folders: list[str]) -> None:
    """Redraw the results in each folder."""
    for folder in folders:
        for place, result in results_in(Path(folder)).items():
            result.draw(place)
            print(f"{place}: {len(result.figures)} figures")


if __name__ == "__main__":
    main(sys.argv[1:])
