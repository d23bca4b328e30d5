"""Assemble the command `faststeer` from its subcommands, and report errors in one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli.bake import bake
from faststeer.cli.bench import bench
from faststeer.cli.calibrate import calibrate
from faststeer.cli.check import check
from faststeer.cli.compare import compare
from faststeer.cli.conform import conform
from faststeer.cli.convert import convert
from faststeer.cli.data import data
from faststeer.cli.demo import demo
from faststeer.cli.experiment import experiment
from faststeer.cli.extract import extract
from faststeer.cli.generate import generate
from faststeer.cli.highlight import highlight
from faststeer.cli.hub import pull, push
from faststeer.cli.info import info
from faststeer.cli.inspect import inspect
from faststeer.cli.play import play
from faststeer.cli.report import report
from faststeer.cli.sweep import sweep
from faststeer.cli.to_lora import to_lora
from faststeer.cli.tune import tune
from faststeer.utils.text_files import describe_os_error
from faststeer.utils.version import VERSION

app = typer.Typer(
    help="Activation steering, fused into the residual stream of LLaMA models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
VECTOR_COMMANDS = (info, demo, play, extract, tune, inspect, highlight, calibrate)
MODEL_COMMANDS = (
    generate,
    compare,
    sweep,
    report,
    bake,
    to_lora,
    convert,
    push,
    pull,
    check,
    conform,
    bench,
)
for command in (*VECTOR_COMMANDS, *MODEL_COMMANDS):  # in the order of --help
    app.command()(command)
app.add_typer(data, name="data")
app.add_typer(experiment, name="experiment")


def print_version(wanted: bool) -> None:
    """Print the version and leave, for `--version`."""
    if wanted:
        print(f"faststeer {VERSION}")
        raise typer.Exit


@app.callback(help=app.info.help)
def options_of_all(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command; print a user's mistake as one line without a traceback, exit code 2."""
    try:
        app()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        message = describe_os_error(error) if isinstance(error, OSError) else error
        Console(stderr=True).print(f"error: {message}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
