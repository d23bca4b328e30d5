"""Time faststeer's ops against their peers in one run, and print the results.

    python benchmarks/ops/run.py --rows 1 --rows 512 --output result.json
    python benchmarks/ops/run.py --device cuda --output result.json

For each op, dtype, number of rows and of vectors: the minimum bytes to move, the time, the share
of the measured copy bandwidth, and the speedup over each peer (`variants.py` describes each one).
`--output` also draws a picture, result.png. On a CPU trust a line only if almost no cores were busy
elsewhere. On a GPU "cold" inputs have left the L2 cache; "warm" inputs are reused.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import plot
import torch
import typer
from cases import Case, Dtype, Entries, Op
from clocks import DeviceClock, HostClock
from compiled_peers import Compiler, LeftOut, compiled_by_default, failure
from grids import default_grids
from measure import Clock, Record, measure
from rich.console import Console
from rich.progress import track
from tables import case_tables, left_out_lines, targets_table
from targets import targets_for, verdicts_on

from faststeer import _C
from faststeer.utils.machine import gpu_facts, installed_version, machine_facts, source_commit
from faststeer.utils.warnings import FaststeerWarning

# Three minutes, unless options say otherwise. Cases that do not fit are reported.
GPU_SECONDS, GPU_COMPILE_SECONDS = 140.0, 70.0
ENDLESS = float("inf")
EVERYTHING, FAILED = "every variant", "faststeer's op"


class Device(str, Enum):
    cpu = "cpu"
    cuda = "cuda"


class Compile(str, Enum):
    default = "default"
    none = "none"
    all = "all"


def wanted(choice: Compile, device: Device, name: str, case: Case) -> bool:
    by_default = choice is Compile.default and compiled_by_default(name, case, device.value)
    return by_default or choice is Compile.all


def facts_of(device: Device) -> dict[str, Any]:
    facts = machine_facts() | {"isa": _C.isa(), "commit": source_commit(Path(__file__).parent)}
    if device is Device.cuda:
        versions = {name: installed_version(name) for name in ("triton", "liger-kernel")}
        facts |= gpu_facts() | versions
    return facts


def measure_all(
    cases: Iterable[Case],
    device: Device,
    clock: Clock,
    compiler: Compiler,
    *,
    rounds: int,
    copy: float,
    seconds: float,
) -> list[Record]:
    """Return records of the cases that fit into `seconds`, without those in which an op fails."""
    began = time.perf_counter()
    records = []
    for _, of_rows in groupby(cases, key=lambda case: (case.op, case.dtype, case.rows)):
        compiler.begin_rows()
        for case in of_rows:
            if time.perf_counter() - began > seconds:
                compiler.leave_out(EVERYTHING, case, "no time left")
                continue
            try:
                records += measure(case, device.value, clock, compiler, rounds=rounds, copy=copy)
            except FaststeerWarning:
                raise
            except Exception as error:  # keep the results of minutes of other cases
                compiler.leave_out(FAILED, case, failure(str(case), error))
    return records


def show(
    facts: dict[str, Any],
    copy: float,
    records: Sequence[Record],
    verdicts: Sequence[Record],
    left_out: Sequence[LeftOut],
) -> None:
    console = Console(width=150)
    for name, value in facts.items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(f"copy: {copy / 1e9:.1f} GB/s; data that stays in cache can exceed it")
    console.print(*case_tables(records))
    for line in left_out_lines(left_out):
        console.print(line, highlight=False)
    console.print(targets_table(verdicts) if verdicts else "no targets for these cases")


def main(
    *,
    device: Device = Device.cpu,
    op: Annotated[list[Op] | None, typer.Option(help="Repeatable, like the next four.")] = None,
    rows: Annotated[list[int] | None, typer.Option(min=1)] = None,
    dtype: Annotated[list[Dtype] | None, typer.Option()] = None,
    vectors: Annotated[list[int] | None, typer.Option(min=0, help="Entries per row.")] = None,
    entries: Annotated[
        list[Entries] | None,
        typer.Option(help="Which rows share entries. Sequences have one vector each."),
    ] = None,
    hidden: Annotated[int, typer.Option(min=1)] = 4096,
    full: Annotated[bool, typer.Option("--full", help="All ops and all dtypes.")] = False,
    compiled: Annotated[
        Compile, typer.Option("--compile", help="Where torch.compile is a peer.")
    ] = Compile.default,
    compile_seconds: Annotated[
        float | None,
        typer.Option(help="Time limit for compiling.", show_default="70 on a GPU"),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Time limit for measuring.", show_default="140 on a GPU"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int | None, typer.Option(min=1, show_default="15, on a GPU 9")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the results as JSON, with a picture beside it.")
    ] = None,
) -> None:
    """Time the ops against their peers.

    Without options: on a CPU the cases of the README, on a GPU those that fit into three minutes.
    Options that select cases measure every combination of their values.
    """
    warnings.simplefilter("error", FaststeerWarning)  # without kernels the reference would be timed
    torch.set_num_threads(threads)
    on_gpu = device is Device.cuda
    chosen = {"ops": op, "rows": rows, "dtypes": dtype, "vectors": vectors, "entries": entries}
    given = {name: value for name, value in chosen.items() if value}
    grids = default_grids(device.value, full)
    grids = (replace(grids[0], **given),) if given else grids
    cases = [case for grid in grids for case in replace(grid, hidden=hidden).cases()]
    limited = on_gpu and not full
    compiler = Compiler(
        lambda name, case: wanted(compiled, device, name, case),
        compile_seconds or (GPU_COMPILE_SECONDS if limited else ENDLESS),
    )
    facts = facts_of(device)
    settings = {"device": device.value, "hidden": hidden, "rounds": rounds or (9 if on_gpu else 15)}
    with torch.inference_mode():
        clock = DeviceClock.of_cuda() if on_gpu else HostClock()
        copy = clock.copy_bandwidth()
        records = measure_all(
            track(cases, "measuring", transient=True),
            device,
            clock,
            compiler,
            rounds=settings["rounds"],
            copy=copy,
            seconds=seconds or (GPU_SECONDS if limited else ENDLESS),
        )
    verdicts = verdicts_on(targets_for(facts, device.value), records)
    show(facts | settings, copy, records, verdicts, compiler.left_out)
    if output is not None:
        record = {"machine": facts, "settings": settings, "copy_bytes_per_second": copy}
        record |= {"cases": records, "targets": verdicts}
        record["left_out"] = [each.as_record() for each in compiler.left_out]
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if records:
            plot.draw(record, output.with_suffix(".png"))
    if any(each.name == FAILED for each in compiler.left_out):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
