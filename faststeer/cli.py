"""The command `faststeer`: puts together what is in `faststeer.commands`."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from faststeer.commands.bake import bake
from faststeer.commands.bench import bench
from faststeer.commands.calibrate import calibrate
from faststeer.commands.check import check
from faststeer.commands.convert import convert
from faststeer.commands.data import data
from faststeer.commands.demo import demo
from faststeer.commands.experiment import experiment
from faststeer.commands.extract import extract
from faststeer.commands.generate import generate
from faststeer.commands.highlight import highlight
from faststeer.commands.info import info
from faststeer.commands.inspect import inspect
from faststeer.commands.report import report
from faststeer.commands.sweep import sweep
from faststeer.text_files import in_words

app = typer.Typer(
    help="Activation steering, fused into the residual stream of LLaMA models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
MAKING = (info, demo, extract, inspect, highlight, calibrate)
USING = (generate, sweep, report, bake, convert, check, bench)
for command in (*MAKING, *USING):
    app.command()(command)
app.add_typer(data, name="data")
app.add_typer(experiment, name="experiment")


def main() -> None:
    """Run the command; a user's mistake is one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        message = in_words(error) if isinstance(error, OSError) else error
        Console(stderr=True).print(f"error: {message}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
