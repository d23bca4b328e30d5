"""The command `faststeer convert`: write a vector in another file format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def convert(
    source: Annotated[Path, typer.Argument(help="Vector file, or a folder of CAA's .pt files.")],
    target: Annotated[Path, typer.Argument(help="Output: .safetensors, .gguf, .pt or a folder.")],
    shift: Annotated[
        bool, typer.Option("--shift", help="SOURCE is a GGUF by llama.cpp's cvector-generator.")
    ] = False,
    rows: Annotated[
        str | None,
        typer.Option(help="Meaning of the rows of a .pt [N, H]: hidden_states or layers."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Which experiment of assistant-axis's capping_config.pt.")
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            *options.LAYER_NAMES,
            help="Layers to keep: 'all', or numbers such as 10,12 or 1-30; for a .pt whose name "
            "does not state its layer, that layer.",
        ),
    ] = "all",
    feature: Annotated[
        int | None,
        typer.Option(help="SOURCE is a sparse autoencoder (SAELens, Gemma Scope); its feature."),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="With --feature, for an .npz that does not state it.")
    ] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="Such as lm-eval; default: by TARGET's suffix.")
    ] = None,
) -> None:
    """Convert a vector file, or an autoencoder's feature, to safetensors, GGUF or a .pt."""
    from faststeer import SteeringVector

    options.require_folder(target)
    chosen = options.layer_numbers(layers)
    only = chosen[0] if len(chosen) == 1 and not isinstance(chosen, str) else None
    if feature is not None:
        vector = SteeringVector.from_sae(source, feature, layer=only, site=site)
    elif site is not None:
        raise ValueError("--site goes with --feature: other files state their site")
    else:
        vector = SteeringVector.load(
            source, layer=only, shift=shift, rows=rows, experiment=experiment
        )
    if not isinstance(chosen, str):
        vector = vector.select(chosen)
    vector.save(target, file_format)
    Console().print(f"wrote {target} from {vector}", soft_wrap=True, markup=False)
