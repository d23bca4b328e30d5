"""The command `faststeer check`: check the patch on a model."""

from __future__ import annotations

import typer
from rich.console import Console

from faststeer.cli import options


def check(
    model: options.ModelOption,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
    num_layers: options.LayersOption = None,
) -> None:
    """Check the patch on your own model: parity, steering, undo; exit code 1 if any check fails."""
    from faststeer.diagnostics.bench.check import show

    if not show(options.load(model, device, dtype, num_layers), Console()):
        raise typer.Exit(1)
