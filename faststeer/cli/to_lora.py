"""The command `faststeer to-lora`: an ablation as an adapter that engines serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options
from faststeer.utils.files import require_new_or_empty


def to_lora(
    vector: Annotated[Path, typer.Argument(help="Vector file.")],
    output: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    model: options.ModelOption,
    layer: Annotated[
        str | None,
        typer.Option(*options.LAYER_NAMES, help="Whose direction; needed where there are several."),
    ] = None,
    fraction: Annotated[float, typer.Option(help="How much of the direction to take out.")] = 1.0,
    embedding: Annotated[
        bool, typer.Option(help="Adapt the embedding too, which not every engine can serve.")
    ] = True,
) -> None:
    """Write an ablation as a LoRA adapter, which engines apply for each request."""
    import faststeer

    require_new_or_empty(output)
    steering = faststeer.SteeringVector.load(vector)
    chosen = options.single_layer(layer)
    loaded = options.load(model, "cpu", None, None)
    faststeer.to_lora(loaded.model, steering, chosen, fraction, output=output, embedding=embedding)
    Console().print(
        f"wrote {output}: {steering.name} taken out, fraction {fraction:g}",
        soft_wrap=True,
        markup=False,
    )
