"""The command `faststeer calibrate`: find the coefficient that reaches a target KL divergence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from faststeer.cli import options
from faststeer.cli.steer_option import require_layers


def calibrate(
    vector: Annotated[Path, typer.Argument(help="Vector file of any format.")],
    model: options.ModelOption,
    target: Annotated[float, typer.Option(help="KL divergence of the next token, in nats.")] = 0.1,
    texts: Annotated[
        Path | None,
        typer.Option(help='Neutral texts, JSONL of {"text": ...}; default: shipped prose.'),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            *options.LAYER_NAMES,
            help="'all', or numbers such as 10,12 or 8-15; optional if the vector has one or "
            "states them.",
        ),
    ] = None,
    opposite: Annotated[
        bool,
        typer.Option("--opposite", help="Find a negative coefficient, for the opposite effect."),
    ] = False,
    max_length: Annotated[int, typer.Option(help="Truncate texts to this many tokens.")] = 128,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Find the coefficient at which next-token probabilities are a target KL divergence away."""
    from faststeer import SteeringVector, diagnostics
    from faststeer.data.jsonl import read_texts

    numbers = None if layers is None else options.layer_numbers(layers)
    steering_vector = SteeringVector.load(vector)
    chosen = steering_vector.layers if isinstance(numbers, str) else numbers
    require_layers(steering_vector, chosen, "--layers {}")
    neutral = None if texts is None else list(read_texts(texts))
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    console = Console()
    found = diagnostics.calibrate(
        loaded.model,
        loaded.tokenizer,
        steering_vector,
        target,
        texts=neutral,
        layers=chosen,
        opposite=opposite,
        max_length=max_length,
        progress=console.is_terminal,
    )
    table = Table()
    table.add_column("coefficient", justify="right")
    table.add_column("nats", justify="right")
    for coefficient, divergence in found.measured.items():
        style = "bold" if coefficient == found.coefficient else None
        table.add_row(f"{coefficient:+.5g}", f"{divergence:.4g}", style=style)
    console.print("KL(unsteered || steered) of the next token, mean over all tokens of the texts:")
    console.print(table)
    at = "" if chosen is None else ":layer=" + ",".join(map(str, chosen))
    console.print(
        f"{found.divergence:.4g} nats (target {target:g}): "
        f"--steer {vector}{at}:coefficient={found.coefficient:.5g}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
