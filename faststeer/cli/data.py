"""`faststeer data`: the sets of data that vectors are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

data = typer.Typer(help="Data to make vectors from.", no_args_is_help=True, rich_markup_mode=None)


@data.callback()
def commands() -> None:
    """With a callback typer keeps `fetch` a command of its own."""


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="behaviours: the paper's five sets of questions.")],
    output: Annotated[
        Path | None, typer.Option(help="The folder to put them; default: the cache.")
    ] = None,
) -> None:
    """Get a set of data from its pinned address, checked against its SHA-256."""
    from faststeer.data import fetch as get

    for file in get(name, output):
        Console().print(str(file), soft_wrap=True, markup=False, highlight=False)
