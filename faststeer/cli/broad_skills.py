"""`faststeer experiment broad-skills`: steering away from code, and its cost on text."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def broad_skills(
    output: Annotated[Path, typer.Option(help="A folder; an interrupted run resumes there.")],
    model: options.ModelOption = "demo",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Prose: a folder, a .txt or a .jsonl of {text}; may be repeated. Mixed evenly "
            "with the documentation of installed packages, which alone is the default."
        ),
    ] = None,
    code: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder with Python, C or C++, a folder of another language, or a .jsonl of "
            "{text} named after its language; may be repeated. Default, also where one of the "
            "three is lacking: Python's library, and headers of C and C++."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            *options.LAYER_NAMES, help="Such as 10,15; those that the model lacks are left out."
        ),
    ] = None,
    coefficients: Annotated[
        str | None, typer.Option(help="Such as 0.5,1,2. A line ends when its skill is lost.")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(help="Per set, for vectors and again to measure on: 45.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Cut documents after this many tokens: 96.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small grid, few and short documents: a minute.")
    ] = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's layers and coefficients: hours.")
    ] = False,
    seed: Annotated[int, typer.Option(help="For drawing documents and for intervals.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents per forward pass.")] = 8,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Steer away from general code and Python; report the accuracy lost on each and on text."""
    from faststeer.experiments.broad_skills import broad_skills as run
    from faststeer.experiments.broad_skills import code_sources, experiment, text_sources
    from faststeer.utils.plot_style import require_matplotlib

    if quick and paper:
        raise ValueError("give either --quick or --paper")
    started = time.monotonic()
    size = experiment.PAPER if paper else experiment.QUICK if quick else experiment.DEFAULT
    if layers is not None:
        size = replace(size, layers=options.layer_numbers(layers))
    if coefficients is not None:
        size = replace(size, coefficients=options.coefficients_in(coefficients))
    if documents is not None:
        size = replace(size, documents=documents)
    if max_length is not None:
        size = replace(size, max_length=max_length)
    require_matplotlib()
    from_code, from_text = code_sources(code or []), text_sources(text or [])
    options.require_writable(output)
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    console = Console()
    result = run(
        loaded.model,
        loaded.tokenizer,
        from_code,
        from_text,
        output=output,
        size=size,
        batch_size=batch_size,
        seed=seed,
        progress=console.is_terminal,
    )
    options.show_result(result, output, time.monotonic() - started, console)
