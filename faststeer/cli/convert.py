"""`faststeer convert`: vectors between the formats of others and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def convert(
    source: Annotated[Path, typer.Argument(help="A vector's file, or a folder of CAA's .pt.")],
    target: Annotated[Path, typer.Argument(help="To write: .safetensors, .gguf, .pt, a folder.")],
    shift: Annotated[
        bool, typer.Option("--shift", help="SOURCE is a GGUF of llama.cpp's cvector-generator.")
    ] = False,
    layer: Annotated[
        int | None, typer.Option(help="The layer of a .pt whose name does not say it.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(help="What the rows of a .pt [N, H] are: hidden_states or layers."),
    ] = None,
    layers: Annotated[str, typer.Option(help="Keep these: numbers such as 10,12 or 1-30.")] = "all",
    file_format: Annotated[
        str | None, typer.Option("--format", help="Such as lm-eval; default: by TARGET's ending.")
    ] = None,
) -> None:
    """Write a vector's file in another format: safetensors, GGUF, CAA's or lm-eval's .pt."""
    from faststeer import SteeringVector

    options.require_folder(target)
    chosen = options.layer_numbers(layers)
    vector = SteeringVector.load(source, layer=layer, shift=shift, rows=rows)
    if not isinstance(chosen, str):
        vector = vector.select(chosen)
    vector.save(target, file_format)
    Console().print(f"wrote {target}: {vector}", soft_wrap=True, markup=False)
