"""Compare faststeer with steering-vectors and repeng: equality of results, and cost.

    python benchmarks/parity/run.py --output benchmarks/results/parity.json

`make parity` runs it in a separate environment, since both require transformers 4.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import cost
import equality
import formats
import torch
import typer
import vectors
from rich import box
from rich.console import Console
from rich.table import Table
from steerers import LIBRARIES

from faststeer.diagnostics.bench.timing import OtherLoad
from faststeer.models.loading import load
from faststeer.utils.machine import installed_version, machine_facts

BATCH_SIZES, PROMPT_TOKENS = (1, 8), 16


def equality_table(records: list[dict[str, Any]]) -> Table:
    made = Table("model", "library", "steered", "coefficient", "difference", "", box=box.SIMPLE)
    for each in records:
        verdict = "equal" if each["equal"] else "DIFFERS"
        numbers = f"{each['coefficient']:+g}", f"{each['difference']:.1e}"
        made.add_row(each["model"], each["library"], each["steered"], *numbers, verdict)
    return made


def formats_table(records: list[dict[str, Any]]) -> Table:
    made = Table("library", "round trip", "difference", "", box=box.SIMPLE)
    for each in records:
        verdict = "equal" if each["equal"] else "DIFFERS"
        made.add_row(each["library"], each["what"], f"{each['difference']:.1e}", verdict)
    return made


def vectors_table(records: list[dict[str, Any]]) -> Table:
    made = Table("library", "pairs", "method", "layers", "minimum cosine", "", box=box.SIMPLE)
    for each in records:
        verdict = "equal" if each["equal"] else "DIFFERS"
        what = each["library"], each["behaviour"], each["method"], str(each["layers"])
        made.add_row(*what, f"{each['cosine']:.7f}", verdict)
    return made


def cost_table(records: list[dict[str, Any]]) -> Table:
    made = Table("phase", "batch", "library", "ms", "against stock", "", box=box.SIMPLE)
    for each in records:
        ratios = f"{each['against_stock']:.3f}x", f"{each['against_faststeer']:.3f}x faststeer's"
        size, times = str(each["batch_size"]), f"{each['milliseconds']:.2f}"
        made.add_row(each["phase"], size, each["library"], times, *ratios)
    return made


def main(
    output: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Samples per library.")] = 101,
) -> None:
    """Compare the logits, then the cost; exit code 1 if any result differs."""
    console = Console(width=110)
    tiny, demo = load("random:tiny"), load("demo")
    equal = [
        record
        for loaded in (tiny, demo)
        for record in equality.compare(loaded.name, loaded.model, LIBRARIES)
    ]
    console.print(equality_table(equal))
    exchanged = list(formats.compare(tiny.model))
    console.print(formats_table(exchanged))
    exact = load("demo", dtype=torch.float32)
    extracted = vectors.compare(exact.name, exact.model, exact.tokenizer)
    console.print(vectors_table(extracted))
    facts: dict[str, Any] = machine_facts()
    facts |= {name: installed_version(name) for name in LIBRARIES if name not in facts}
    other_load = OtherLoad()
    costs = cost.measure(demo.model, LIBRARIES, BATCH_SIZES, PROMPT_TOKENS, rounds)
    busy = other_load.cores()
    facts["cores_elsewhere"] = None if busy is None else round(busy, 2)
    console.print(cost_table(costs))
    if output is not None:
        settings = {"model": demo.name, "prompt_tokens": PROMPT_TOKENS, "rounds": rounds}
        record = {"machine": facts, "settings": settings, "equality": equal}
        record |= {"formats": exchanged, "vectors": extracted, "cost": costs}
        output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not all(each["equal"] for each in equal + exchanged + extracted):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
