"""`faststeer demo`: two vectors made, seen at work, measured and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the vectors.")] = Path("faststeer-demo"),
) -> None:
    """Make two vectors on SmolLM2-135M, see them at work, measure them, save them."""
    from faststeer.cli import demo_tour as demonstration

    console = Console()
    console.print("loading SmolLM2-135M-Instruct (the first time it is converted: half a minute)")
    demonstration.run(options.load("demo", "cpu", None, None), output, console)
