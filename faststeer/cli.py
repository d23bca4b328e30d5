"""The command `faststeer`: thin, each subcommand's work is in a module of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

app = typer.Typer(
    help="Activation steering, fused into the residual stream of LLaMA models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Hub name, folder, 'demo', or 'random:llama-2-7b'."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="Such as cpu, cuda or cuda:1.")]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; default: the model's.")
]
LayersOption = Annotated[
    int | None, typer.Option("--num-layers", help="For random weights: fewer layers.")
]


def load(model: str, device: str, dtype: str | None, num_layers: int | None) -> Any:
    """The model that the options name."""
    from transformers.utils import logging

    from faststeer import loading

    logging.disable_progress_bar()
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"--dtype {dtype!r} is unknown; expected one of {', '.join(_DTYPES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: a torch without CUDA
        raise ValueError(f"--device {device!r} cannot be used here: {error}") from error
    chosen = None if dtype is None else _DTYPES[dtype]
    return loading.load(model, dtype=chosen, device=device, num_layers=num_layers)


@app.command()
def info() -> None:
    """Tell what was built, what runs here, and why CUDA is off if it is."""
    from faststeer.info import show

    show(Console())


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the vectors.")] = Path("faststeer-demo"),
) -> None:
    """Make two vectors on SmolLM2-135M, see them at work, measure them, save them."""
    from faststeer import demo as demonstration

    console = Console()
    console.print("loading SmolLM2-135M-Instruct (the first time it is converted: half a minute)")
    demonstration.run(load("demo", "cpu", None, None), output, console)


@app.command()
def extract(
    pairs: Annotated[Path, typer.Option(help='JSONL of {"positive": ..., "negative": ...}.')],
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    model: ModelOption,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    num_layers: LayersOption = None,
    name: Annotated[str | None, typer.Option(help="Default: the output file's name.")] = None,
    layers: Annotated[str, typer.Option(help="'all', or numbers such as 10,12.")] = "all",
    site: Annotated[str, typer.Option(help="resid_pre, resid_mid or resid_post.")] = "resid_post",
    read_token: Annotated[int, typer.Option(help="-1: the last token of each text.")] = -1,
    batch_size: Annotated[int, typer.Option(help="Texts a forward.")] = 8,
    max_length: Annotated[int | None, typer.Option(help="Cut texts after so many tokens.")] = None,
) -> None:
    """Make a steering vector from contrast pairs."""
    import faststeer
    from faststeer.jsonl import PairsFile

    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: the folder {output.parent} does not exist")
    chosen = layer_numbers(layers)
    checked = PairsFile(pairs)
    loaded = load(model, device, dtype, num_layers)
    require_tokenizer(loaded)
    vector = faststeer.extract(
        loaded.model,
        loaded.tokenizer,
        checked,
        name=name or output.stem,
        layers=chosen,
        site=site,
        read_token=read_token,
        batch_size=batch_size,
        max_length=max_length,
    )
    vector.save(output)
    Console().print(f"wrote {output}: {vector}", soft_wrap=True, markup=False)


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Option(help="May be given several times.")],
    steer: Annotated[
        list[str], typer.Option(help="FILE[:layer=N[,N...]][:coefficient=X]; several add up.")
    ],
    model: ModelOption,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 40,
    chat: Annotated[bool, typer.Option(help="Put prompts into the chat template.")] = False,
) -> None:
    """Generate greedily, unsteered beside steered."""
    from faststeer.generation import show_side_by_side
    from faststeer.steer_option import SteerOption

    options = [SteerOption.parse(text) for text in steer]
    for option in options:
        option.vector  # noqa: B018 - a broken file is told before the model is loaded
    loaded = load(model, device, dtype, None)
    require_tokenizer(loaded)
    show_side_by_side(loaded, options, prompt, max_new_tokens, chat, Console())


@app.command()
def bake(
    steer: Annotated[
        list[str], typer.Option(help="FILE[:layer=N[,N...]][:coefficient=X]; several in order.")
    ],
    output: Annotated[Path, typer.Option(help="The folder to write: new, or empty.")],
    model: ModelOption,
    dtype: DtypeOption = None,
    mode: Annotated[
        str, typer.Option(help="add, or ablate: take the layer's direction out everywhere.")
    ] = "add",
) -> None:
    """Write steering into a checkpoint, for other engines to serve without faststeer."""
    import faststeer
    from faststeer import baking, checkpoint
    from faststeer.steer_option import SteerOption

    if mode not in baking.MODES:
        raise ValueError(f"--mode {mode!r} is unknown; expected one of {', '.join(baking.MODES)}")
    checkpoint.require_free(output)
    options = [SteerOption.parse(text) for text in steer]
    for option in options:
        option.vector  # noqa: B018 - a broken file is told before the model is loaded
    loaded = load(model, "cpu", dtype, None)
    for option in options:
        faststeer.bake(loaded.model, option.vector, option.coefficient, option.layers, mode=mode)
    checkpoint.save(loaded, output)
    told = ", ".join(f"{option.vector.name} {option.coefficient:+g}" for option in options)
    Console().print(f"wrote {output}: {mode} {told}", soft_wrap=True, markup=False)


@app.command()
def check(
    model: ModelOption,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    num_layers: LayersOption = None,
) -> None:
    """Check the patch on your own model: parity, steering, undo; exit code 1 if any fails."""
    from faststeer.checking import show

    if not show(load(model, device, dtype, num_layers), Console()):
        raise typer.Exit(1)


@app.command()
def bench(
    model: ModelOption,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    num_layers: LayersOption = None,
    batch_sizes: Annotated[str, typer.Option(help="Sequences a forward, such as 1,8.")] = "1",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of a prefill.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Steps of a decode sample.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each variant.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
) -> None:
    """Time what injection costs: stock, plain hooks and faststeer, taking turns."""
    import json

    from faststeer.bench import Settings, run
    from faststeer.files import write_whole

    sizes = [int(size) for size in batch_sizes.split(",") if size.strip().isdecimal()]
    if len(sizes) != len(batch_sizes.split(",")) or 0 in sizes:
        raise ValueError(f"--batch-sizes {batch_sizes!r}: expected numbers from 1, such as 1,8")
    if output is not None and not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: the folder {output.parent} does not exist")
    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(tuple(sizes), prompt_tokens, new_tokens, rounds)
    record = run(load(model, device, dtype, num_layers), settings, Console())
    if output is not None:
        write_whole(output, (json.dumps(record, indent=2) + "\n").encode())


def layer_numbers(text: str) -> str | list[int]:
    """What `--layers` means: "all", or the numbers. Raises ValueError for anything else."""
    if text == "all":
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--layers {text!r}: expected 'all', or numbers such as 10,12") from error


def require_tokenizer(loaded: Any) -> None:
    """Raise ValueError for a model without one."""
    if loaded.tokenizer is None:
        raise ValueError(f"{loaded.name} has random weights and no tokenizer; give a real model")


def main() -> None:
    """Run the command; a user's mistake is one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
