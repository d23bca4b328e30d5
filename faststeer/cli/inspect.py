"""`faststeer inspect`: what is in a vector's file, and what a model and pairs tell of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options, sources


def inspect(
    vector: Annotated[Path, typer.Argument(help="A vector's file, of any format.")],
    beside: Annotated[
        list[Path] | None, typer.Option(help="Another behaviour's vector; may be repeated.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Tells dose and logit lens; as for other commands.")
    ] = None,
    pairs: sources.PairsOption = None,
    behaviour: sources.BehaviourOption = None,
    data: sources.DataOption = None,
    dataset: sources.DatasetOption = None,
    columns: sources.ColumnsOption = "positive,negative",
    chat: sources.ChatOption = False,
    texts: Annotated[
        Path | None, typer.Option(help='Where norms are measured: JSONL of {"text": ...}.')
    ] = None,
    layers: Annotated[str, typer.Option(help="'all', or numbers such as 10,12 or 8-15.")] = "all",
    coefficient: Annotated[float, typer.Option(help="Of the relative dose.")] = 1.0,
    read_token: Annotated[
        str | None, typer.Option(help="As for extract; default: as the vector was made.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Of the logit lens, of each kind.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Texts a forward.")] = 16,
    max_length: Annotated[int | None, typer.Option(help="Cut texts after so many tokens.")] = None,
    most_pairs: Annotated[
        int, typer.Option(min=1, help="Of more pairs the first are read, and that is said.")
    ] = 200,
    plots: Annotated[
        Path | None, typer.Option(help="A folder for pictures, with their data as CSV and JSON.")
    ] = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Tell of a vector what can be told with what is given: its file, --model, pairs."""
    from faststeer import SteeringVector, diagnostics
    from faststeer.data.jsonl import read_texts
    from faststeer.diagnostics import tables
    from faststeer.diagnostics.plots import require_plots

    if plots is not None:
        require_plots(plots)
    chosen = options.layer_numbers(layers)
    token = None if read_token is None else options.read_token(read_token)
    loaded_vectors = [SteeringVector.load(path) for path in (vector, *(beside or []))]
    if not isinstance(chosen, str):
        loaded_vectors = [one.select(chosen) for one in loaded_vectors]
    neutral = None if texts is None else list(read_texts(texts))
    source = None
    if data is not None and behaviour is None:
        raise ValueError("--data goes with --behaviour")
    if pairs is not None or behaviour is not None or dataset is not None:
        source = sources.Source.of(pairs, behaviour, data, None, None, dataset, columns, chat)
    elif chat:
        raise ValueError("--chat goes with pairs: --pairs, --behaviour or --dataset")
    if model is None and (source is not None or texts is not None):
        raise ValueError("pairs and --texts are read by a model: give --model")
    loaded = None
    if model is not None:
        loaded = options.load(model, device, dtype, None)
        options.require_tokenizer(loaded)
    console = Console()
    inspection = diagnostics.inspect(
        loaded_vectors[0],
        None if loaded is None else loaded.model,
        None if loaded is None else loaded.tokenizer,
        texts=neutral,
        others=loaded_vectors[1:],
        coefficient=coefficient,
        read_token=token,
        lens_tokens=tokens,
        batch_size=batch_size,
        max_length=max_length,
        most_pairs=most_pairs,
        progress=console.is_terminal,
        **(source.arguments(loaded.tokenizer) if source and loaded else {}),
    )
    for table in (
        tables.metadata_table(inspection),
        tables.facts_table(inspection),
        tables.lens_table(inspection),
        tables.between_table(inspection),
    ):
        if table is not None:
            console.print(table)
    for line in inspection.missing:
        console.print(f"not told: {line}", markup=False, highlight=False, soft_wrap=True)
    if plots is not None:
        for path in diagnostics.write_plots(inspection, plots):
            console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
