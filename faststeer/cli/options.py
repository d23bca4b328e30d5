"""Options that several commands take, and what they mean."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

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
READ_TOKEN_HELP = "-1 or last, -2, ...; or the mean over all, answer, or a range such as -4:."


def load(model: str, device: str, dtype: str | None, num_layers: int | None) -> Any:
    """The model that the options name."""
    from transformers.utils import logging

    from faststeer.models import loading

    logging.disable_progress_bar()
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"--dtype {dtype!r} is unknown; expected one of {', '.join(_DTYPES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: a torch without CUDA
        raise ValueError(f"--device {device!r} cannot be used here: {error}") from error
    chosen = None if dtype is None else _DTYPES[dtype]
    return loading.load(model, dtype=chosen, device=device, num_layers=num_layers)


def layer_numbers(text: str) -> str | list[int]:
    """What `--layers` means: "all", or numbers and ranges. Raises ValueError for anything else."""
    if text == "all":
        return text
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"--layers {text!r}: expected 'all', or numbers such as 10,12 or 8-15")
        layers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return layers


def read_token(text: str) -> Any:
    """What `--read-token` means. Raises ValueError for what means nothing."""
    from faststeer.extraction.read_token import parse_read_token

    try:
        return parse_read_token(text)
    except ValueError as error:
        raise ValueError(f"--read-token: {error}") from error


def coefficients_in(text: str) -> list[float]:
    """What `--coefficients` means. Raises ValueError for anything but finite numbers."""
    try:
        found = [float(number) for number in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise ValueError(f"--coefficients {text!r}: expected numbers such as -2,-1,1,2")
    return found


def require_tokenizer(loaded: Any) -> None:
    """Raise ValueError for a model without one."""
    if loaded.tokenizer is None:
        raise ValueError(f"{loaded.name} has random weights and no tokenizer; give a real model")


def require_folder(output: Path) -> None:
    """Raise FileNotFoundError where a file could not be written, before anything takes long."""
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: the folder {output.parent} does not exist")


def require_new_file(output: Path) -> None:
    """As `require_folder`, and raise IsADirectoryError where `output` is a folder itself."""
    require_folder(output)
    if output.is_dir():
        raise IsADirectoryError(f"{output}: is a folder; expected the name of a file")


def require_writable(folder: Path) -> None:
    """Raise OSError where a folder cannot be made, or no file in it; nothing is left behind."""
    import tempfile

    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{folder}: {there.name} is a file; expected a folder")
    try:
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError as error:
        raise type(error)(f"{folder}: cannot be written ({error.strerror})") from error


def show_result(result: Any, output: Path, seconds: float, console: Console) -> None:
    """Print an experiment's result, how long it took, and where the rest is."""
    result.show(console)
    written = f"wrote {output} in {seconds:.0f} s; faststeer report {output} shows all of it"
    console.print(written, soft_wrap=True, markup=False, highlight=False)
