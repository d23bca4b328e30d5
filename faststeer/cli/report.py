"""`faststeer report`: the results of experiments as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def report(
    folder: Annotated[
        Path, typer.Argument(help="An experiment's --output, or a folder of several.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="The page; default: report.html in the folder.")
    ] = None,
) -> None:
    """Write the text, tables and figures of experiments as one self-contained HTML file."""
    from faststeer.experiments import as_page, results_in
    from faststeer.utils.files import write_whole

    page = folder / "report.html" if output is None else output
    results = results_in(folder)
    options.require_new_file(page)
    write_whole(page, as_page(results).encode())
    Console().print(f"wrote {page}", soft_wrap=True, markup=False, highlight=False)
