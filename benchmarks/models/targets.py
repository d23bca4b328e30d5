"""Check the cost of injection into a whole model against its targets.

    python benchmarks/models/targets.py benchmarks/results/smollm2-float32-cpu.json

Prints the verdicts on results of `faststeer bench` and adds them to the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

from faststeer.diagnostics.bench.phases import CAPTURED, COMPILED, DECODE
from faststeer.diagnostics.bench.variants import (
    COUNTS,
    IDLE,
    STOCK,
    per_row_variant,
    shared_variant,
)

Record = dict[str, Any]

DIFFERENT = per_row_variant(4)  # every sequence steered differently


@dataclass(frozen=True)
class Limit:
    """Upper limit on a decode step's time with `variant`, as a multiple of that with `against`."""

    phase: str
    variant: str
    against: str
    at_most: float


def limits_of(phase: str, captured: bool) -> Iterator[Limit]:
    yield Limit(phase, DIFFERENT, IDLE, 1.005 if captured else 1.02)
    yield Limit(phase, DIFFERENT, STOCK, 1.0)
    for name in (shared_variant, per_row_variant):
        for count in COUNTS[1:]:
            yield Limit(phase, name(count), name(COUNTS[0]), 1.02)


def verdicts_on(record: Record) -> list[Record]:
    """Return a verdict for each limit and batch size that was measured."""
    ratios = {
        (row["phase"], row["batch_size"], row["variant"]): (
            row["against_idle"],
            row["against_stock"],
        )
        for row in record["results"]
    }
    captured = {DECODE: False, CAPTURED: True, COMPILED: record["device"] != "cpu"}
    verdicts = []
    for phase, limits in ((phase, limits_of(phase, captured[phase])) for phase in captured):
        for limit in limits:
            for batch in record["settings"]["batch_sizes"]:
                both = [ratios.get((phase, batch, n)) for n in (limit.variant, limit.against)]
                if None in both:
                    continue
                # The rounds' own ratios where they were stored, else a ratio of two of those.
                (to_idle, to_stock), (other_to_idle, _) = both
                reached = to_stock if limit.against == STOCK else to_idle / other_to_idle
                verdicts.append(
                    {
                        "phase": phase,
                        "batch_size": batch,
                        "variant": limit.variant,
                        "against": limit.against,
                        "at_most": limit.at_most,
                        "reached": reached,
                        "met": reached <= limit.at_most,
                    }
                )
    return verdicts


def table(verdicts: list[Record]) -> Table:
    """Return the verdicts as a table; missed targets come last, where they are noticed."""
    numbers = (Column(name, justify="right") for name in ("batch", "at most", "reached"))
    made = Table("phase", "variant", "against", *numbers, "", title="targets", box=box.SIMPLE)
    for each in sorted(verdicts, key=lambda one: not one["met"]):
        made.add_row(
            each["phase"],
            each["variant"],
            each["against"],
            str(each["batch_size"]),
            f"{each['at_most']:.3f}x",
            f"{each['reached']:.4f}x",
            "met" if each["met"] else "MISSED",
        )
    return made


def judge(path: Path) -> list[Record]:
    """Judge the file's results and write the verdicts into it."""
    record = json.loads(path.read_text(encoding="utf-8"))
    record["targets"] = verdicts_on(record)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record["targets"]


def main(
    files: Annotated[list[Path], typer.Argument(help="Results of `faststeer bench --output`.")],
) -> None:
    """Print the verdicts on each file and store them in it."""
    for path in files:
        Console(width=110).print(path.name, table(judge(path)))


if __name__ == "__main__":
    typer.run(main)
