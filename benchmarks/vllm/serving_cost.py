"""Measure what the plugin costs in vLLM, beside the same engine without it.

    python benchmarks/vllm/serving_cost.py [--eager] [--device cuda] [--rounds N] [--processes N]
        [--output FILE]

SmolLM2-135M with random vectors at every layer, in vLLM of this environment (docs/vllm.md). A round
decodes once per variant, in one engine in which the plugin is toggled (`one_process.py`). With
`--eager` nothing is compiled, and plain PyTorch hooks are measured as well.

Where a process happens to place its weights and code moves every ratio in it by several percent, in
either direction and for as long as it runs: `--processes` repeats it, and medians are reported.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from faststeer.utils.files import write_whole

PROGRAM = Path(__file__).with_name("one_process.py")
# One thread: a second one spins between the parallel regions of a step, and its time is counted.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def measure_in_processes(count: int, arguments: list[str]) -> dict[str, Any]:
    """Measure in `count` processes, one after another, and return their records combined.

    Raises:
        CalledProcessError: a process failed.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            path = Path(folder) / f"{number}.json"
            command = [sys.executable, str(PROGRAM), *arguments, "--output", str(path)]
            subprocess.run(command, check=True, env=os.environ | ENVIRONMENT)
            records.append(json.loads(path.read_text(encoding="utf-8")))
    return combined(records)


def combined(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one record of several: medians over processes, their ratios and the ratios' range.

    Raises:
        ValueError: records of different variants or batches.
    """
    if len(records) == 1:
        return records[0]
    cells = []
    for found in zip(*(own["results"] for own in records), strict=True):
        first = found[0]
        if len({(own["variant"], own["batch"]) for own in found}) > 1:
            raise ValueError("the processes have measured different cells")
        times = {mode: [own["ms"][mode] for own in found] for mode in first["ms"]}
        ratios = [own["ratio"] for own in found]
        cells.append(
            {
                "variant": first["variant"],
                "batch": first["batch"],
                "steps": first["steps"],
                "ms": {mode: statistics.median(own) for mode, own in times.items()},
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "ratios": ratios,
            }
        )
    return {**records[0], "processes": len(records), "results": cells}


def print_table(found: list[dict[str, Any]]) -> None:
    """Print the ratios with their range over processes, or the interval within one."""
    batches = dict.fromkeys(own["batch"] for own in found)
    table = Table("variant", *(f"batch {own}" for own in batches))
    for variant in dict.fromkeys(own["variant"] for own in found):
        cells = []
        for own in found:
            if own["variant"] == variant:
                low, high = own["ratio_range" if "ratio_range" in own else "ratio_interval"]
                cells.append(f"{own['ratio']:.3f} [{low:.3f}, {high:.3f}]")
        table.add_row(variant, *cells)
    Console().print(table)


def main(
    eager: Annotated[bool, typer.Option("--eager", help="Do not compile.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda, as vLLM was built.")] = "cpu",
    rounds: Annotated[int, typer.Option(help="Of 24 steps of each mode, per process.")] = 3,
    processes: Annotated[int, typer.Option(min=1, help="How many measure, in turn.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Write JSON here.")] = None,
) -> None:
    """Measure, print a table, and write it."""
    given = ["--eager"] * eager + ["--device", device, "--rounds", str(rounds)]
    record = measure_in_processes(processes, given)
    print_table(record["results"])
    if output is not None:
        write_whole(output, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    typer.run(main)
