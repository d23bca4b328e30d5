"""`faststeer report`: what experiments found, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def report(
    folder: Annotated[Path, typer.Argument(help="An experiment's --output, or a folder of such.")],
    output: Annotated[
        Path | None, typer.Option(help="The page; default: report.html in the folder.")
    ] = None,
) -> None:
    """Show experiments' sentences, tables and pictures as one HTML file that needs no other."""
    from faststeer.experiments import as_page, outcomes_in
    from faststeer.utils.files import write_whole

    page = folder / "report.html" if output is None else output
    outcomes = outcomes_in(folder)
    options.require_new_file(page)
    write_whole(page, as_page(outcomes).encode())
    Console().print(f"wrote {page}", soft_wrap=True, markup=False, highlight=False)
