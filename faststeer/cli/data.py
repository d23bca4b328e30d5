"""The command `faststeer data`: download data to extract vectors from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

data = typer.Typer(
    help="Data to extract vectors from.", no_args_is_help=True, rich_markup_mode=None
)


@data.callback()
def commands() -> None:
    """Keep `fetch` a subcommand: without a callback typer would merge a single one."""


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="behaviours: the paper's five question sets.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: the cache.")
    ] = None,
) -> None:
    """Download a data set from its pinned address and verify its SHA-256."""
    from faststeer.data import fetch as download

    for file in download(name, output):
        Console().print(str(file), soft_wrap=True, markup=False, highlight=False)
