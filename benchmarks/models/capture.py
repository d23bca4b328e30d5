"""Measure the cost of gathering the statistics of all layers during a forward pass.

    python benchmarks/models/capture.py [--model NAME] [--device cuda] [--output FILE]

Compared with storing all hidden states and computing their statistics afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from costs import Record, compare
from rich.console import Console

import faststeer
from faststeer.diagnostics.bench.hook_baselines import twin
from faststeer.models import loading
from faststeer.models.inference import random_ids
from faststeer.utils.files import write_whole
from faststeer.utils.machine import machine_facts

AT_MOST = 1.03  # times the same forward without


def capture_calls(model: Any, batch: int, tokens: int) -> dict[str, Callable[[], object]]:
    """Return a forward of the decoder alone, with capture, and with all activations stored."""
    ids = random_ids(model, batch, tokens)
    stock, patched = twin(model), twin(model)
    faststeer.patch(patched)

    def forward(decoder: Any, **options: Any) -> Any:
        return decoder(input_ids=ids, use_cache=False, **options)

    def captured(positions: str) -> object:
        with faststeer.capture(patched, positions=positions) as moments:
            forward(patched.model)
        return moments

    def stored() -> object:
        states = forward(stock.model, output_hidden_states=True).hidden_states
        return [(state.double().mean((0, 1)), state.double().var((0, 1))) for state in states[1:]]

    return {
        "stock forward": lambda: forward(stock.model),
        "forward": lambda: forward(patched.model),
        "capture, every token": lambda: captured("all"),
        "capture, last tokens": lambda: captured("last"),
        "output_hidden_states": stored,
    }


def verdicts_on(record: Record) -> list[Record]:
    """Return a verdict on the time of each capture."""
    return [
        {
            "phase": "forward",
            "variant": name,
            "against": "forward",
            "at_most": AT_MOST,
            "reached": record[name]["times"],
            "met": record[name]["times"] <= AT_MOST,
        }
        for name in record
        if name.startswith("capture")
    ]


def main(
    model: Annotated[str, typer.Option(help="Hub name, folder, 'demo', 'random:...'.")] = "demo",
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Number of texts.")] = 16,
    tokens: Annotated[int, typer.Option(help="Tokens per text.")] = 128,
    rounds: Annotated[int, typer.Option(help="Samples of each variant.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
) -> None:
    """Measure one forward pass in bfloat16, with and without capture."""
    console = Console()
    loaded = loading.load(model, dtype=torch.bfloat16, device=device)
    title = f"one forward of {model}, batch {batch}, {tokens} tokens"
    found = compare(title, capture_calls(loaded.model, batch, tokens), "forward", rounds, console)
    verdicts = verdicts_on(found)
    for verdict in verdicts:
        met = "met" if verdict["met"] else "missed"
        console.print(f"{verdict['variant']}: {verdict['reached']:.3f}, at most {AT_MOST}: {met}")
    if output is not None:
        record = {"machine": machine_facts(), "model": model, "batch": batch}
        record |= {"tokens": tokens, "capture": found, "targets": verdicts}
        write_whole(output, (json.dumps(record, indent=2) + "\n").encode())


if __name__ == "__main__":
    typer.run(main)
