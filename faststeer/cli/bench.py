"""The command `faststeer bench`: time what steering costs on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from faststeer.cli import options


def bench(
    model: options.ModelOption,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
    num_layers: options.LayersOption = None,
    batch_sizes: Annotated[
        str, typer.Option(help="Sequences per forward pass, such as 1,8.")
    ] = "1",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prefill.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Steps per decode sample.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Samples per variant.")] = 7,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Also time decode steps with torch.compile.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: torch's.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the full record.")] = None,
) -> None:
    """Time what steering costs: stock, plain hooks and faststeer, in alternation."""
    import json

    from faststeer.diagnostics.bench.run import Settings, run
    from faststeer.utils.files import write_whole

    sizes = [int(size) for size in batch_sizes.split(",") if size.strip().isdecimal()]
    if len(sizes) != len(batch_sizes.split(",")) or 0 in sizes:
        raise ValueError(f"--batch-sizes {batch_sizes!r}: expected numbers from 1, such as 1,8")
    if output is not None:
        options.require_folder(output)
    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(tuple(sizes), prompt_tokens, new_tokens, rounds, compiled)
    record = run(options.load(model, device, dtype, num_layers), settings, Console())
    if output is not None:
        write_whole(output, (json.dumps(record, indent=2) + "\n").encode())
