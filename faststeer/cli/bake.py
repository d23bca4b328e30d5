"""The command `faststeer bake`: write steering into a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from faststeer.cli import options
from faststeer.models.loading import Loaded
from faststeer.utils.files import new_folder, require_new_or_empty


def bake(
    steer: Annotated[
        list[str], typer.Option(help="FILE[:layer=N[,N...]][:coefficient=X]; repeatable, in order.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    model: options.ModelOption,
    dtype: options.DtypeOption = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="add, or ablate to remove a layer's direction everywhere; default: as the vector "
            "states, else add."
        ),
    ] = None,
) -> None:
    """Write steering into a checkpoint that other engines can serve without faststeer."""
    import faststeer
    from faststeer.cli.steer_option import SteerOption
    from faststeer.patching.bake import MODES
    from faststeer.steering.resolved_use import resolve_coefficient

    if mode is not None and mode not in MODES:
        raise ValueError(f"--mode {mode!r} is unknown; expected one of {', '.join(MODES)}")
    require_new_or_empty(output)
    steering = [SteerOption.parse(text) for text in steer]
    for option in steering:
        if option.mode is not None or option.positions is not None:
            raise ValueError(
                f"--steer {option.path}: give --mode instead of mode=, no bounds and no "
                "positions=, because baked steering applies to all tokens"
            )
        if mode != "ablate":
            option.require_layers()  # reads the file, before the model is loaded
        option.read()
    loaded = options.load(model, "cpu", dtype, None)
    for option in steering:
        faststeer.bake(loaded.model, option.vector, option.coefficient, option.layers, mode=mode)
    save_checkpoint(loaded, output)
    baked = ", ".join(
        f"{option.vector.name} {resolve_coefficient(option.vector, option.coefficient):+g}"
        for option in steering
    )
    Console().print(f"wrote {output}: {mode or 'add'} {baked}", soft_wrap=True, markup=False)


def save_checkpoint(loaded: Loaded, folder: Path) -> None:
    """Save a model, and its tokenizer if it has one, completely or not at all.

    Raises:
        FileExistsError, FileNotFoundError: as `require_new_or_empty`.
    """
    with new_folder(folder) as part:
        model: Any = loaded.model
        model.save_pretrained(part)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(part)
