"""The command `faststeer extract`: write a vector extracted from pairs or documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import chat_options, options, sources
from faststeer.cli.torchrun import is_first_process, local_device, process_group


def extract(
    output: Annotated[Path, typer.Option(help="Safetensors file to write.")],
    model: options.ModelOption,
    pairs: sources.PairsOption = None,
    behaviour: sources.BehaviourOption = None,
    data: sources.DataOption = None,
    positive: sources.PositiveOption = None,
    negative: sources.NegativeOption = None,
    dataset: sources.DatasetOption = None,
    columns: sources.ColumnsOption = "positive,negative",
    chat: sources.ChatOption = False,
    system: chat_options.SystemOption = None,
    template: chat_options.TemplateOption = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
    num_layers: options.LayersOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the vector; default: the output file's.")
    ] = None,
    layers: options.SeveralLayersOption = "all",
    method: Annotated[
        str, typer.Option(help="Such as mean_difference, pca_center or logistic_probe.")
    ] = "mean_difference",
    site: Annotated[str, typer.Option(help="resid_pre, resid_mid or resid_post.")] = "resid_post",
    read_token: Annotated[str, typer.Option(help=options.READ_TOKEN_HELP)] = "-1",
    batch_size: Annotated[int, typer.Option(help="Texts per forward pass.")] = 16,
    max_length: Annotated[
        int | None, typer.Option(help="Truncate texts to this many tokens.")
    ] = None,
    match_endings: Annotated[
        bool, typer.Option("--match-endings", help="Trim pairs to equal last tokens.")
    ] = False,
    keep_sinks: Annotated[
        bool, typer.Option("--keep-sinks", help="Read and average attention sinks too.")
    ] = False,
    items: Annotated[
        int | None, typer.Option(min=1, help="At most this many pairs, or documents per side.")
    ] = None,
    cache: sources.CacheOption = False,
) -> None:
    """Extract a vector from contrast pairs, or from two sets of documents.

    Processes started by torchrun share the work.
    """
    import faststeer

    options.require_new_file(output)
    if output.suffix != ".safetensors":  # other formats may fail only at the end
        raise ValueError(
            f"{output}: extract writes .safetensors; `faststeer convert` writes other formats"
        )
    chosen, token = options.layer_numbers(layers), options.read_token(read_token)
    source = sources.Source.from_options(
        pairs, behaviour, data, positive, negative, dataset, columns, chat, system, template
    )
    loaded = options.load(model, local_device(device), dtype, num_layers)
    options.require_tokenizer(loaded)
    with process_group() as processes, options.warnings_as_lines():
        vector = faststeer.extract(
            loaded.model,
            loaded.tokenizer,
            **source.extract_arguments(loaded.tokenizer, items),
            name=name or output.stem,
            layers=chosen,
            method=method,
            site=site,
            read_token=token,
            batch_size=batch_size,
            max_length=max_length,
            match_endings=match_endings,
            keep_sinks=keep_sinks,
            process_group=processes,
            cache=cache,
        )
    if is_first_process():
        vector.save(output)
        console = Console()
        console.print(f"wrote {output}: {vector}", soft_wrap=True, markup=False)
        if len(vector.layers) > 1:
            advice = (
                "next: `faststeer tune` finds layer and coefficient, `inspect` looks at all layers"
            )
            console.print(advice, soft_wrap=True, markup=False, highlight=False)
