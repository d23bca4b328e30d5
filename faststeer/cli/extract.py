"""`faststeer extract`: pairs or documents to a vector's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options, sources
from faststeer.cli.torchrun import first, own_device, process_group


def extract(
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    model: options.ModelOption,
    pairs: sources.PairsOption = None,
    behaviour: sources.BehaviourOption = None,
    data: sources.DataOption = None,
    positive: sources.PositiveOption = None,
    negative: sources.NegativeOption = None,
    dataset: sources.DatasetOption = None,
    columns: sources.ColumnsOption = "positive,negative",
    chat: sources.ChatOption = False,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
    num_layers: options.LayersOption = None,
    name: Annotated[str | None, typer.Option(help="Default: the output file's name.")] = None,
    layers: Annotated[str, typer.Option(help="'all', or numbers such as 10,12 or 8-15.")] = "all",
    method: Annotated[
        str, typer.Option(help="Such as mean_difference, pca_center or logistic_probe.")
    ] = "mean_difference",
    site: Annotated[str, typer.Option(help="resid_pre, resid_mid or resid_post.")] = "resid_post",
    read_token: Annotated[str, typer.Option(help=options.READ_TOKEN_HELP)] = "-1",
    batch_size: Annotated[int, typer.Option(help="Texts a forward.")] = 16,
    max_length: Annotated[int | None, typer.Option(help="Cut texts after so many tokens.")] = None,
) -> None:
    """Make a vector from contrast pairs, or from two sets of documents.

    Under torchrun, processes share the work.
    """
    import faststeer

    options.require_new_file(output)
    if output.suffix != ".safetensors":  # what others cannot hold would only be told at the end
        raise ValueError(f"{output}: extract writes .safetensors; `faststeer convert` the rest")
    chosen, token = options.layer_numbers(layers), options.read_token(read_token)
    source = sources.Source.of(pairs, behaviour, data, positive, negative, dataset, columns, chat)
    loaded = options.load(model, own_device(device), dtype, num_layers)
    options.require_tokenizer(loaded)
    with process_group() as processes:
        vector = faststeer.extract(
            loaded.model,
            loaded.tokenizer,
            **source.arguments(loaded.tokenizer),
            name=name or output.stem,
            layers=chosen,
            method=method,
            site=site,
            read_token=token,
            batch_size=batch_size,
            max_length=max_length,
            process_group=processes,
        )
    if first():
        vector.save(output)
        Console().print(f"wrote {output}: {vector}", soft_wrap=True, markup=False)
