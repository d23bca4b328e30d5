"""`faststeer bake`: steering written into a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def bake(
    steer: Annotated[
        list[str], typer.Option(help="FILE[:layer=N[,N...]][:coefficient=X]; several in order.")
    ],
    output: Annotated[Path, typer.Option(help="The folder to write: new, or empty.")],
    model: options.ModelOption,
    dtype: options.DtypeOption = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="add, or ablate: take the layer's direction out everywhere. Default: as the "
            "vector states, or add."
        ),
    ] = None,
) -> None:
    """Write steering into a checkpoint, for other engines to serve without faststeer."""
    import faststeer
    from faststeer.cli import checkpoint
    from faststeer.cli.steer_option import SteerOption
    from faststeer.patching import bake

    if mode is not None and mode not in bake.MODES:
        raise ValueError(f"--mode {mode!r} is unknown; expected one of {', '.join(bake.MODES)}")
    checkpoint.require_free(output)
    steering = [SteerOption.parse(text) for text in steer]
    for option in steering:
        if option.mode is not None or option.positions is not None:
            raise ValueError(
                f"--steer {option.path}: its mode is --mode here, and its positions are all tokens"
            )
        option.vector  # noqa: B018 - a broken file is told before the model is loaded
    loaded = options.load(model, "cpu", dtype, None)
    for option in steering:
        faststeer.bake(loaded.model, option.vector, option.coefficient, option.layers, mode=mode)
    checkpoint.save(loaded, output)
    told = ", ".join(f"{option.vector.name} {option.coefficient:+g}" for option in steering)
    Console().print(f"wrote {output}: {mode or 'add'} {told}", soft_wrap=True, markup=False)
