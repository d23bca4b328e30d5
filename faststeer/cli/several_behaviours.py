"""`faststeer experiment behaviours`: several behaviours steered alone and together."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from faststeer.cli import options

if TYPE_CHECKING:
    from faststeer.experiments.several_behaviours import Protocol

_NEUTRAL = "plain encyclopaedic prose that comes with faststeer"


def behaviours(
    output: Annotated[Path, typer.Option(help="A folder; an interrupted run resumes there.")],
    model: options.ModelOption = "demo",
    data: Annotated[
        Path | None, typer.Option(help="Your own folder of the sets; default: the fetched ones.")
    ] = None,
    behaviour: Annotated[
        list[str] | None, typer.Option(help="Such as myopic; may be repeated. Default: all five.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="General text: a folder, a JSONL or any text file.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A first look, in a minute.")] = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's grids and numbers of questions.")
    ] = False,
    layers: Annotated[
        str | None, typer.Option(help="Of each vector alone: 'all', or such as 10,15 or 8-15.")
    ] = None,
    coefficients: Annotated[
        str | None, typer.Option(help="Of each vector alone, such as -5,-2,2,5.")
    ] = None,
    train: Annotated[int | None, typer.Option(min=1, max=500, help="Pairs per vector.")] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Equally many of them per matching answer.")
    ] = False,
    items: Annotated[
        int | None, typer.Option(min=1, help="Questions to choose on, and as many to test.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For the shuffle before questions are split.")] = 13,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per forward pass.")] = 8,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Steer five behaviours one by one, by one combined vector, and all at once."""
    from faststeer.data import Documents
    from faststeer.data.shipped import neutral_texts
    from faststeer.experiments.charts import require_charts
    from faststeer.experiments.several_behaviours import (
        BEHAVIOURS,
        read_behaviours,
        several_behaviours,
    )

    started = time.monotonic()
    protocol = _protocol(quick, paper, coefficients, train, items)
    if balanced:
        protocol = replace(protocol, balanced=True)
    numbers = None if layers is None else options.layer_numbers(layers)
    require_charts()
    questions = read_behaviours(behaviour or BEHAVIOURS, data, protocol, seed)
    documents = neutral_texts() if text is None else Documents(text)
    texts = list(islice(documents, protocol.texts))
    options.require_writable(output)
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    console = Console()
    result = several_behaviours(
        loaded.model,
        loaded.tokenizer,
        questions,
        texts,
        output,
        protocol=protocol,
        text_source=_NEUTRAL if text is None else text.name,
        layers=numbers,
        seed=seed,
        batch_size=batch_size,
        progress=console.is_terminal,
    )
    options.show_result(result, output, time.monotonic() - started, console)


def _protocol(
    quick: bool, paper: bool, coefficients: str | None, train: int | None, items: int | None
) -> Protocol:
    from faststeer.experiments.several_behaviours import Protocol

    if quick and paper:
        raise ValueError("give either --quick or --paper")
    protocol = Protocol.quick() if quick else Protocol.paper() if paper else Protocol()
    if coefficients is not None:
        protocol = replace(protocol, coefficients=tuple(options.coefficients_in(coefficients)))
    if train is not None:
        protocol = replace(protocol, train=train)
    return protocol if items is None else replace(protocol, items=items)
