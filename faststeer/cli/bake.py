"""The command `faststeer bake`: write steering into a checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from faststeer.cli import options
from faststeer.models.loading import Loaded


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
                f"--steer {option.path}: give --mode instead of mode=, and no positions=, because "
                "baked steering applies to all tokens"
            )
        option.read()  # before the model is loaded
    loaded = options.load(model, "cpu", dtype, None)
    for option in steering:
        faststeer.bake(loaded.model, option.vector, option.coefficient, option.layers, mode=mode)
    save_checkpoint(loaded, output)
    baked = ", ".join(
        f"{option.vector.name} {resolve_coefficient(option.vector, option.coefficient):+g}"
        for option in steering
    )
    Console().print(f"wrote {output}: {mode or 'add'} {baked}", soft_wrap=True, markup=False)


def require_new_or_empty(folder: Path) -> None:
    """Check that `folder` is new or empty, and that its parent exists.

    Raises:
        FileExistsError: it is a file, or a folder with entries.
        FileNotFoundError: its parent does not exist.
    """
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder}: the folder {folder.parent} does not exist")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; choose another")


def save_checkpoint(loaded: Loaded, folder: Path) -> None:
    """Save a model, and its tokenizer if it has one, completely or not at all.

    Both are written into a temporary folder beside `folder`, which is then renamed.

    Raises:
        FileExistsError, FileNotFoundError: as `require_new_or_empty`.
    """
    folder = folder.resolve()
    require_new_or_empty(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        part = temporary / folder.name  # mkdtemp's own folder is closed to other users
        part.mkdir()
        model: Any = loaded.model
        model.save_pretrained(part)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(part)
        part.rename(folder)  # replaces an empty folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
