"""Performance targets of the ops, and verdicts on whether they were met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cases import Entries, Op
from variants import COMPILED, COMPILED_UNSTEERED, FRESH, INTO, LIGER, STOCK

Record = dict[str, Any]

UNSTEERED_KERNELS = (COMPILED_UNSTEERED, LIGER)
SMALL_ROWS, LARGE_ROWS = (1, 4, 16, 64), (2048, 8192, 32768)
VECTORS = (0, 1, 4, 8)


@dataclass(frozen=True)
class Target:
    """Target share of the copy bandwidth or, with `over`, speedup over the best peer measured."""

    variant: str
    at_least: float
    rows: tuple[int, ...]
    over: tuple[str, ...] = ()
    op: Op = Op.steer_add_rms_norm
    vectors: tuple[int, ...] = (4,)
    entries: tuple[Entries, ...] = (Entries.none, Entries.shared, Entries.per_sequence)
    caches: tuple[str, ...] = ("cold",)
    unless_fused: bool = False  # applies only where torch.compile makes more than one kernel

    def covers(self, record: Record) -> bool:
        return (
            record["op"] == self.op.value
            and record["rows"] in self.rows
            and record["vectors"] in self.vectors
            and record["entries"] in [each.value for each in self.entries]
            and record["cache"] in self.caches
        )


def _on_cpu(variant: str, over: str, rows: int, at_least: float) -> Target:
    entries, caches = (Entries.per_row,), ("warm",)
    return Target(variant, at_least, (rows,), (over,), entries=entries, caches=caches)


CPU_TARGETS = (
    _on_cpu(FRESH, STOCK, 1, 3.0),
    _on_cpu(FRESH, STOCK, 8, 3.0),
    _on_cpu(FRESH, STOCK, 64, 2.5),
    _on_cpu(FRESH, STOCK, 512, 2.5),
    _on_cpu(INTO, STOCK, 1, 7.0),
    *(_on_cpu(FRESH, COMPILED, rows, 1.0) for rows in (1, 8, 64, 512, 4096)),
    _on_cpu(INTO, COMPILED, 4096, 3.0),
)
# The share is that of the kernel that writes into the caller's memory; the speedups compare
# variants that allocate their results.
GPU_TARGETS = (
    Target(INTO, 0.9, LARGE_ROWS, vectors=VECTORS),
    Target(FRESH, 1 / 1.03, LARGE_ROWS, UNSTEERED_KERNELS, vectors=VECTORS),
    Target(FRESH, 1 / 1.25, LARGE_ROWS, UNSTEERED_KERNELS, entries=(Entries.per_row,)),
    Target(
        FRESH,
        1.5,
        LARGE_ROWS,
        (COMPILED,),
        entries=(Entries.shared, Entries.per_row),
        unless_fused=True,
    ),
    Target(
        FRESH,
        1 / 1.1,
        SMALL_ROWS,
        UNSTEERED_KERNELS,
        vectors=VECTORS,
        entries=tuple(Entries),
        caches=("warm", "cold"),
    ),
    Target(FRESH, 0.85, (8192, 32768), op=Op.accumulate_moments, vectors=(0,)),
)


def targets_for(machine: dict[str, Any], device: str) -> tuple[Target, ...]:
    """Return the targets that were set for this hardware."""
    if device == "cpu":
        return CPU_TARGETS if machine["threads"] == 2 else ()
    hopper = any(name in machine["gpu"] for name in ("H100", "H200"))
    return GPU_TARGETS if hopper else ()


def verdicts_on(targets: Sequence[Target], records: Sequence[Record]) -> list[Record]:
    """Return a verdict for every record that a target covers, at hidden 4096 in bfloat16."""
    comparable = [
        record for record in records if (record["hidden"], record["dtype"]) == (4096, "bfloat16")
    ]
    verdicts = (_verdict(each, record) for each in targets for record in comparable)
    return [verdict for verdict in verdicts if verdict is not None]


def _verdict(target: Target, record: Record) -> Record | None:
    if not target.covers(record):
        return None
    over, reached = None, record["share_of_copy"][target.variant]
    if target.over:
        speedups = record["speedup"][target.variant]
        there = {peer: speedups[peer] for peer in target.over if peer in speedups}
        if not there:
            return None
        over, reached = min(there.items(), key=lambda item: item[1])
    applies = not (target.unless_fused and record["kernels"].get(over) == 1)
    of_record = ("op", "rows", "vectors", "entries", "groups", "cache", "cores_elsewhere")
    return {
        "variant": target.variant,
        "over": over,
        **{name: record[name] for name in of_record},
        "at_least": target.at_least,
        "reached": reached,
        "met": reached >= target.at_least if applies else None,
    }
