"""The command `faststeer inspect`: report on a vector file, on a model and on pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import chat_options, options, sources


def inspect(
    vector: Annotated[Path, typer.Argument(help="Vector file of any format.")],
    beside: Annotated[
        list[Path] | None, typer.Option(help="Vector to compare with; repeatable.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="For relative norms and the logit lens; as for other commands."),
    ] = None,
    pairs: sources.PairsOption = None,
    behaviour: sources.BehaviourOption = None,
    data: sources.DataOption = None,
    dataset: sources.DatasetOption = None,
    columns: sources.ColumnsOption = "positive,negative",
    chat: sources.ChatOption = False,
    system: chat_options.SystemOption = None,
    template: chat_options.TemplateOption = None,
    texts: Annotated[
        Path | None, typer.Option(help='Texts to measure norms on: JSONL of {"text": ...}.')
    ] = None,
    layers: options.SeveralLayersOption = "all",
    coefficient: Annotated[float, typer.Option(help="Coefficient of the relative norm.")] = 1.0,
    read_token: Annotated[
        str | None, typer.Option(help="As for extract; default: as in the vector's metadata.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(help="Promoted, and suppressed, tokens of the logit lens.")
    ] = 5,
    batch_size: Annotated[int, typer.Option(help="Texts per forward pass.")] = 16,
    max_length: Annotated[
        int | None, typer.Option(help="Truncate texts to this many tokens.")
    ] = None,
    most_pairs: Annotated[
        int,
        typer.Option(
            "--items",
            "--most-pairs",
            min=1,
            help="Read at most this many pairs, and report if there are more.",
        ),
    ] = 200,
    cache: sources.CacheOption = False,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for plots, with their data as CSV and JSON.")
    ] = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Report on a vector as far as the inputs allow: its file alone, --model, pairs."""
    from faststeer import SteeringVector, diagnostics
    from faststeer.data.jsonl import read_texts
    from faststeer.diagnostics.plots import require_plots
    from faststeer.diagnostics.tables import print_inspection

    if plots is not None:
        require_plots(plots)
    chosen = options.layer_numbers(layers)
    token = None if read_token is None else options.read_token(read_token)
    loaded_vectors = [SteeringVector.load(path) for path in (vector, *(beside or []))]
    if not isinstance(chosen, str):
        loaded_vectors = [each.select(chosen) for each in loaded_vectors]
    neutral = None if texts is None else list(read_texts(texts))
    source = None
    if data is not None and behaviour is None:
        raise ValueError("--data goes with --behaviour")
    if pairs is not None or behaviour is not None or dataset is not None:
        source = sources.Source.from_options(
            pairs, behaviour, data, None, None, dataset, columns, chat, system, template
        )
    elif chat_options.ChatOptions.parse(chat, system, template).chat:
        raise ValueError("--chat goes with pairs: --pairs, --behaviour or --dataset")
    if model is None and (source is not None or texts is not None):
        raise ValueError("pairs and --texts need a model: give --model")
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
        cache=cache,
        **(source.extract_arguments(loaded.tokenizer) if source and loaded else {}),
    )
    print_inspection(inspection, console)
    for line in inspection.confounds:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in inspection.missing:
        console.print(f"not computed: {line}", markup=False, highlight=False, soft_wrap=True)
    if plots is not None:
        for path in diagnostics.write_plots(inspection, plots):
            console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
