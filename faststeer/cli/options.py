"""Options shared by several commands, and the parsing of their values."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import torch
import typer
from rich.console import Console

from faststeer.utils.plot_style import require_matplotlib
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.layer_text import parse_layers

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Hub name, folder, 'demo' or 'random:llama-2-7b'."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="Such as cpu, cuda or cuda:1.")]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; default: the model's.")
]
LayersOption = Annotated[
    int | None, typer.Option("--num-layers", help="Number of layers, for random weights.")
]
LAYER_NAMES = ("--layers", "--layer")  # two names of one option, in every command
SeveralLayersOption = Annotated[
    str, typer.Option(*LAYER_NAMES, help="'all', or numbers such as 10,12 or 8-15.")
]
READ_TOKEN_HELP = (
    "-1 or last, -2, ...; or the mean of all, answer, post_instruction, or a range such as -4:."
)


def load(model: str, device: str, dtype: str | None, num_layers: int | None) -> Any:
    """Load the model that the options name.

    Raises:
        ValueError: an unknown dtype, a device that is not available, or as `models.load`.
    """
    from transformers.utils import logging

    from faststeer.models import loading

    logging.disable_progress_bar()
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"--dtype {dtype!r} is unknown; expected one of {', '.join(_DTYPES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        raise ValueError(f"--device {device!r} cannot be used here: {error}") from error
    chosen = None if dtype is None else _DTYPES[dtype]
    return loading.load(model, dtype=chosen, device=device, num_layers=num_layers)


def layer_numbers(text: str, option: str = "--layers") -> str | list[int]:
    """Parse `--layers`: "all", or numbers and ranges. Raises ValueError for anything else.

    `option`: as the message names it.
    """
    if text == "all":
        return text
    try:
        return parse_layers(text)
    except ValueError:
        raise ValueError(
            f"{option} {text!r}: expected 'all', or numbers such as 10,12 or 8-15"
        ) from None


def single_layer(text: str | None) -> int | None:
    """Parse `--layer` of a command that takes one. Raises ValueError for several."""
    layers = [] if text is None else layer_numbers(text, "--layer")
    if len(layers) == 1 and not isinstance(layers, str):
        return layers[0]
    if layers:
        raise ValueError(f"--layer {text!r}: expected one layer, such as 15")
    return None


def read_token(text: str) -> Any:
    """Parse `--read-token`. Raises ValueError for an unknown read token."""
    from faststeer.extraction.read_token import parse_read_token

    try:
        return parse_read_token(text)
    except ValueError as error:
        raise ValueError(f"--read-token: {error}") from error


def coefficients_in(text: str) -> list[float]:
    """Parse `--coefficients`. Raises ValueError for anything but finite numbers."""
    try:
        coefficients = [float(number) for number in text.split(",")]
    except ValueError:
        coefficients = [math.nan]
    if not all(map(math.isfinite, coefficients)):
        raise ValueError(f"--coefficients {text!r}: expected numbers such as -2,-1,1,2")
    return coefficients


def require_tokenizer(loaded: Any) -> None:
    """Raise ValueError for a model without a tokenizer."""
    if loaded.tokenizer is None:
        raise ValueError(f"{loaded.name} has random weights and no tokenizer; give a real model")


def require_folder(output: Path) -> None:
    """Raise FileNotFoundError, before anything takes long, if the folder of `output` is missing."""
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: the folder {output.parent} does not exist")


def require_new_file(output: Path) -> None:
    """Raise as `require_folder`, and IsADirectoryError if `output` itself is a folder."""
    require_folder(output)
    if output.is_dir():
        raise IsADirectoryError(f"{output}: is a folder; expected the name of a file")


def require_picture(path: Path) -> None:
    """Raise as `require_new_file`, and ValueError for a picture that cannot be drawn."""
    require_new_file(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--figure {path}: expected a name that ends in .png, .svg or .pdf")
    require_matplotlib()


def require_writable(folder: Path) -> None:
    """Raise OSError if `folder` cannot be created or written to; leaves nothing behind."""
    import tempfile

    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{folder}: {existing.name} is a file; expected a folder")
    try:
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise type(error)(f"{folder}: cannot be written ({error.strerror})") from error


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print each `FaststeerWarning` as one line on standard error, without the code's place."""
    with warnings.catch_warnings():
        shown_otherwise = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, FaststeerWarning):
                console = Console(stderr=True)
                console.print(f"warning: {message}", markup=False, highlight=False, soft_wrap=True)
            else:
                shown_otherwise(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        warnings.simplefilter("always", FaststeerWarning)
        yield


@contextmanager
def stages_as_lines(console: Console) -> Iterator[None]:
    """Print each stage that the package logs on standard error, where no progress bar is shown."""
    log = logging.getLogger("faststeer")
    handler, level = logging.StreamHandler(), log.level
    if console.is_terminal:
        yield
        return
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def show_result(result: Any, output: Path, seconds: float, console: Console) -> None:
    """Print an experiment's result, how long it took, and where the rest is."""
    result.show(console)
    written = f"wrote {output} in {seconds:.0f} s; faststeer report {output} shows all of it"
    console.print(written, soft_wrap=True, markup=False, highlight=False)
