"""The command `faststeer demo`: a tour on a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the vectors.")] = Path("faststeer-demo"),
) -> None:
    """Extract two vectors on SmolLM2-135M, show and measure what they do, and save them."""
    from faststeer.cli import demo_tour

    console = Console()
    console.print("loading SmolLM2-135M-Instruct (the first time it is converted: half a minute)")
    demo_tour.run(options.load("demo", "cpu", None, None), output, console)
