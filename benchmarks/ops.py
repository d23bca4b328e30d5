"""Time steer_add_rms_norm on the CPU against stock PyTorch and torch.compile, in one run.

    python -m benchmarks.ops --rows 1 --rows 512 --output result.json

Prints the bytes that had to move, the time, the share of the measured copy bandwidth, the speedup
over each peer and which stated targets are reached. The peers: "stock" adds and norms unsteered,
"eager steered" also adds one vector that was summed beforehand, "torch.compile" does all that the
op does. Believe a line only if next to no cores were busy elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from faststeer import _C, ops, reference
from faststeer.timing import (
    Bystanders,
    copy_bandwidth,
    interleaved,
    machine_facts,
    source_commit,
)

EPS = 1e-5
PEERS = ("stock", "eager steered", "torch.compile")
OURS = ("faststeer", "faststeer into", "faststeer idle", "faststeer pre-summed")

Pair = tuple[Tensor, Tensor]
Variants = dict[str, Callable[[], Pair]]
Case = dict[str, Any]


class Dtype(str, Enum):
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


@dataclass(frozen=True)
class Target:
    variant: str
    over: str
    rows: int
    at_least: float


TARGETS_HOLD_FOR = {"hidden": 4096, "dtype": "bfloat16", "vectors": 4, "threads": 2}
TARGETS = (
    Target("faststeer", "stock", 1, 3.0),
    Target("faststeer", "stock", 8, 3.0),
    Target("faststeer", "stock", 64, 2.5),
    Target("faststeer", "stock", 512, 2.5),
    Target("faststeer into", "stock", 1, 7.0),
    *(Target("faststeer", "torch.compile", rows, 1.0) for rows in (1, 8, 64, 512, 4096)),
    Target("faststeer into", "torch.compile", 4096, 3.0),
)


class Inputs(NamedTuple):
    """x and residual ``[N, H]``, weight ``[H]``, entries: vectors ``[K, H]``, index, coefficient.

    The last two are ``[1, K]`` where all rows share them and ``[N, K]`` where they do not.
    """

    x: Tensor
    residual: Tensor
    weight: Tensor
    entries: tuple[Tensor, Tensor, Tensor]


def random_inputs(
    rows: int, hidden: int, dtype: torch.dtype, *, vectors: int, shared: bool
) -> Inputs:
    draw = torch.Generator().manual_seed(0)
    settings = 1 if shared else rows
    # Every row reads every vector, in an order of its own.
    index = torch.rand(settings, vectors, generator=draw).argsort(1).int()
    coefficient = torch.randn(settings, vectors, generator=draw)
    x, residual = torch.randn(2, rows, hidden, generator=draw).to(dtype)
    weight = torch.randn(hidden, generator=draw).to(dtype)
    table = torch.randn(vectors, hidden, generator=draw).to(dtype)
    return Inputs(x, residual, weight, (table, index, coefficient))


def bytes_moved(
    rows: int,
    hidden: int,
    element_size: int,
    *,
    vectors: int,
    shared: bool,
    vector_element_size: int,
) -> int:
    """The least that one call must move.

    x and the residual are read, the residual and out written, the weight and each of the `vectors`
    distinct vectors read once, and `vectors` entries (an int32 index and a float32 coefficient)
    for each row, or once where the rows share them.
    """
    activations = 4 * rows * hidden * element_size
    weight = hidden * element_size
    table = vectors * hidden * vector_element_size
    entries = (1 if shared else rows) * vectors * 8
    return activations + weight + table + entries


def steered_expression(x: Tensor, residual: Tensor, weight: Tensor, *entries: Tensor) -> Pair:
    # reference.steering_sum, compiled, is up to 20 % slower: it also tests for absent entries.
    vectors, index, coefficient = entries
    s = (coefficient[:, :, None] * vectors[index].float()).sum(1)
    h = ((residual.float() + x.float()) + s).to(residual.dtype)
    return reference.rms_norm(h, weight, EPS), h


def variants_of(inputs: Inputs) -> Variants:
    x, residual, weight, entries = inputs
    summed = reference.steering_sum(*entries, len(entries[1]), torch.float32)[:1]
    pre_summed = (summed, torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1))
    addend = summed[0].to(residual.dtype)
    norm = LlamaRMSNorm(len(weight), EPS)
    norm.weight = torch.nn.Parameter(weight)
    torch.compiler.reset()  # or all cases share one cache, whose limit of recompiles they reach
    compiled = torch.compile(steered_expression, fullgraph=True, dynamic=False)
    out, residual_out = torch.empty_like(residual), torch.empty_like(residual)

    def stock() -> Pair:
        h = residual + x
        return norm(h), h

    def eager_steered() -> Pair:
        h = residual + x
        h.add_(addend)
        return norm(h), h

    def into() -> Pair:
        ops.steer_add_rms_norm_out(x, residual, weight, EPS, *entries, out, residual_out)
        return out, residual_out

    return {
        "stock": stock,
        "eager steered": eager_steered,
        "torch.compile": lambda: compiled(x, residual, weight, *entries),
        "faststeer": lambda: ops.steer_add_rms_norm(x, residual, weight, EPS, *entries),
        "faststeer into": into,
        "faststeer idle": lambda: ops.steer_add_rms_norm(x, residual, weight, EPS),
        "faststeer pre-summed": lambda: ops.steer_add_rms_norm(
            x, residual, weight, EPS, *pre_summed
        ),
    }


def check_results(inputs: Inputs, variants: Variants) -> None:
    """Raise AssertionError if variants that should agree do not: a fast wrong answer is none."""
    x, residual, weight, entries = inputs
    same = ("torch.compile", "faststeer", "faststeer into")
    expected = reference.steer_add_rms_norm(x, residual, weight, EPS, *entries)
    torch.testing.assert_close(
        {name: variants[name]() for name in same}, dict.fromkeys(same, expected)
    )


def measure(inputs: Inputs, rounds: int, copy: float) -> Case:
    variants = variants_of(inputs)
    check_results(inputs, variants)
    bystanders = Bystanders()
    samples = interleaved(variants, rounds)
    cores_elsewhere = bystanders.cores()
    rows, hidden = inputs.residual.shape
    size = inputs.residual.element_size()
    vectors, index, _ = inputs.entries
    of_case = {"rows": rows, "hidden": hidden, "element_size": size}
    steered = bytes_moved(
        **of_case, vectors=len(vectors), shared=len(index) == 1, vector_element_size=size
    )
    sizes = {
        "faststeer": steered,
        "faststeer into": steered,
        "faststeer idle": bytes_moved(**of_case, vectors=0, shared=True, vector_element_size=0),
        "faststeer pre-summed": bytes_moved(
            **of_case, vectors=1, shared=True, vector_element_size=torch.float32.itemsize
        ),
    }
    return {
        "rows": rows,
        "cores_elsewhere": cores_elsewhere,
        "bytes": sizes,
        "microseconds": {name: samples.median(name) * 1e6 for name in variants},
        "share_of_copy": {name: sizes[name] / samples.median(name) / copy for name in OURS},
        "speedup": {
            name: {peer: samples.speedup(name, over=peer) for peer in PEERS} for name in OURS
        },
    }


def held_to_targets(cases: list[Case]) -> list[dict[str, Any]]:
    measured = {case["rows"]: case for case in cases}
    held = []
    for target in TARGETS:
        if target.rows in measured:
            case = measured[target.rows]
            reached = case["speedup"][target.variant][target.over]
            verdict = {"reached": reached, "met": reached >= target.at_least}
            held.append(asdict(target) | verdict | {"cores_elsewhere": case["cores_elsewhere"]})
    return held


def cores(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def table(title: str, columns: list[str], lines: list[list[str]]) -> Table:
    headings = (Column(column, justify="right") for column in columns)
    made = Table(*headings, title=title, title_justify="left", box=box.SIMPLE)
    for line in lines:
        made.add_row(*line)
    return made


def speedup_line(case: Case) -> list[str]:
    fresh, into = (
        [f"{case['microseconds'][name]:.1f}"]
        + [f"{case['speedup'][name][peer]:.2f}x" for peer in ("stock", "torch.compile")]
        for name in ("faststeer", "faststeer into")
    )
    share = f"{case['share_of_copy']['faststeer']:.0%}"
    moved = f"{case['bytes']['faststeer']:,}"
    elsewhere = cores(case["cores_elsewhere"])
    return [f"{case['rows']}", moved, fresh[0], share, *fresh[1:], *into, elsewhere]


def case_tables(layout: str, cases: list[Case]) -> tuple[Table, Table]:
    columns = ["rows", "bytes", "faststeer\nus", "share\nof copy", "vs\nstock", "vs\ncompile"]
    columns += ["into\nus", "into vs\nstock", "into vs\ncompile", "cores\nelsewhere"]
    names = ["rows", *(name.replace(" ", "\n") for name in PEERS + OURS)]
    medians = [
        [f"{case['rows']}", *(f"{case['microseconds'][name]:.1f}" for name in PEERS + OURS)]
        for case in cases
    ]
    return (
        table(f"{layout} entries", columns, [speedup_line(case) for case in cases]),
        table(f"{layout} entries, every median in us", names, medians),
    )


def target_table(layout: str, targets: list[dict[str, Any]]) -> Table:
    columns = ["variant", "over", "rows", "at least", "reached", "", "cores elsewhere"]
    lines = []
    for target in targets:
        factors = [f"{target['at_least']:.1f}x", f"{target['reached']:.2f}x"]
        verdict = ["pass" if target["met"] else "MISS", cores(target["cores_elsewhere"])]
        lines.append([target["variant"], target["over"], f"{target['rows']}", *factors, *verdict])
    return table(f"targets, {layout} entries", columns, lines)


def main(
    *,
    rows: Annotated[
        list[int],
        typer.Option(
            default_factory=lambda: [1, 8, 64, 512, 4096],
            show_default="1, 8, 64, 512, 4096",
            help="Repeatable.",
        ),
    ],
    hidden: int = 4096,
    dtype: Dtype = Dtype.bfloat16,
    vectors: Annotated[int, typer.Option(min=1, help="Vectors a row.")] = 4,
    threads: int = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 15,
    shared: Annotated[
        bool, typer.Option("--shared/--per-row", help="Which entries are held to the targets.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
) -> None:
    """Time the op with entries of each row's own and with entries that all rows share."""
    torch.set_num_threads(threads)
    element = getattr(torch, dtype.value)
    facts = machine_facts() | {"isa": _C.isa(), "commit": source_commit(Path(__file__).parent)}
    settings = {"hidden": hidden, "dtype": dtype.value, "vectors": vectors, "rounds": rounds}
    layouts: dict[str, list[Case]] = {"per-row": [], "shared": []}
    with torch.inference_mode():
        copy = copy_bandwidth()
        order = [(count, layout) for count in rows for layout in layouts]
        for count, layout in track(order, "measuring", transient=True):
            one_line = layout == "shared"
            inputs = random_inputs(count, hidden, element, vectors=vectors, shared=one_line)
            layouts[layout].append(measure(inputs, rounds, copy))
    judged = "shared" if shared else "per-row"
    comparable = TARGETS_HOLD_FOR.items() <= (settings | facts).items()
    targets = held_to_targets(layouts[judged]) if comparable else []

    console = Console(width=110)
    for name, value in (facts | settings).items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(f"copy: {copy / 1e9:.1f} GB/s; what stays in cache can exceed it")
    for layout, cases in layouts.items():
        console.print(*case_tables(layout, cases))
    console.print(target_table(judged, targets) if comparable else "no targets for these settings")
    if output is not None:
        record = {"machine": facts, "settings": settings, "copy_bytes_per_second": copy}
        record |= {"cases": layouts, "targets_for": judged, "targets": targets}
        output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
