"""`faststeer experiment`: the paper's experiments, one command each."""

from __future__ import annotations

import typer

from faststeer.cli.broad_skills import broad_skills
from faststeer.cli.several_behaviours import behaviours

experiment = typer.Typer(
    help="The experiments of van der Weij et al. 2024, end to end.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@experiment.callback()
def commands() -> None:
    """Keep each experiment a command of its own: typer needs a callback for that."""


experiment.command("broad-skills")(broad_skills)
experiment.command()(behaviours)
