"""The same measurement in several processes, and their medians.

Where a process happens to place its weights and code moves every ratio in it by several percent, in
either direction, and by the same amount however long it runs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def measure_in_processes(count: int, program: str, arguments: list[str]) -> dict[str, Any]:
    """Run a program `count` times, one after another, and return its records combined.

    Args:
        count: of processes.
        program: its file; it takes ``--output`` and writes the record there.
        arguments: its other arguments.

    Raises:
        CalledProcessError: a process failed.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            path = Path(folder) / f"{number}.json"
            command = [sys.executable, program, *arguments, "--output", str(path)]
            subprocess.run(command, check=True)
            records.append(json.loads(path.read_text(encoding="utf-8")))
    return combined(records)


def combined(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one record of several: medians over processes, their ratios and the ratios' range.

    Raises:
        ValueError: records of different variants or batches.
    """
    cells = []
    for found in zip(*(own["results"] for own in records), strict=True):
        first = found[0]
        if {(own["variant"], own["batch"]) for own in found} != {
            (first["variant"], first["batch"])
        }:
            raise ValueError("the processes have measured different cells")
        ratios = [own["ratio"] for own in found]
        cells.append(
            {
                "variant": first["variant"],
                "batch": first["batch"],
                "steps": first["steps"],
                "ms": {
                    mode: statistics.median(own["ms"][mode] for own in found)
                    for mode in first["ms"]
                },
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "ratios": ratios,
            }
        )
    return {**records[0], "processes": len(records), "results": cells}
