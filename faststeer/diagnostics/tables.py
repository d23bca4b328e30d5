"""Tables of an inspection for the terminal (rich); all fit 80 columns."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from faststeer.diagnostics.inspection import Inspection, LayerFacts
from faststeer.diagnostics.token_text import printable, show_spaces
from faststeer.utils.terminal_tables import Column, print_columns

_Cell = Callable[[LayerFacts], str | None]


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print the tables of all parts of the inspection that were computed."""
    _print_metadata(inspection, console)
    _print_facts(inspection, console)
    _print_lens(inspection, console)
    _print_between(inspection, console)


def _print_facts(inspection: Inspection, console: Console) -> None:
    """Print norms, dose, separability and stability, with a row per layer.

    Columns that were not computed are left out; a legend explains the short headings.
    """
    layers = inspection.layers
    before = [
        _number(float(inspection.cosines[n, n - 1]), ".3f") if n else "" for n in range(len(layers))
    ]
    columns = [Column("layer", list(map(str, layers)))]
    columns.append(Column("norm", [f"{facts.norm:.4g}" for facts in layers.values()]))
    legend = []
    if len(layers) > 1:
        columns.append(Column("cosine", [cell or "" for cell in before]))
        legend.append("cosine: with the previous layer's direction")
    heads: dict[str, tuple[_Cell, str]] = {
        "residual": (lambda facts: _number(facts.residual_norm, ".4g"), "the stream's median norm"),
        f"dose at {inspection.coefficient:+g}": (
            lambda facts: _number(facts.dose, ".1%"),
            "norm that is added, of the residual stream's",
        ),
        "AUC": (lambda facts: _number(facts.auc, ".3f"), "of the vector on all pairs"),
        "held out": (
            lambda facts: _number(facts.held_out_auc, ".3f"),
            "AUC of each half's vector on the other half of the pairs",
        ),
        "halves": (lambda facts: _number(facts.stability, ".3f"), "cosine of the halves' vectors"),
    }
    for heading, (cell, meaning) in heads.items():
        cells = [cell(facts) for facts in layers.values()]
        if any(own is not None for own in cells):
            columns.append(Column(heading, [own or "" for own in cells]))
            legend.append(f"{heading}: {meaning}")
    print_columns(console, columns, f"{printable(inspection.name)} at {inspection.site}")
    if legend:
        console.print(Text("; ".join(legend)))


def _print_lens(inspection: Inspection, console: Console) -> None:
    """Print the tokens promoted and suppressed per layer, if there is a logit lens."""
    if not any(facts.lens for facts in inspection.layers.values()):
        return
    table = _titled("logit lens: tokens and the change of their logits in standard deviations")
    table.add_column("layer", justify="right", no_wrap=True, min_width=5)
    for side in ("promoted", "suppressed"):
        table.add_column(side, ratio=1, overflow="fold")
    for layer, facts in inspection.layers.items():
        if facts.lens is not None:
            sides = (facts.lens.promoted, facts.lens.suppressed)
            table.add_row(str(layer), *(_tokens(side) for side in sides))
    console.print(table)


def _print_between(inspection: Inspection, console: Console) -> None:
    """Print the cosines between vectors per layer, if there are other vectors."""
    if not inspection.between:
        return
    layers = list(next(iter(inspection.between.values())))
    columns = [Column("layer", list(map(str, layers)))]
    for (first, second), cosines in inspection.between.items():
        cells = [_number(cosines[layer], "+.3f") or "" for layer in layers]
        columns.append(Column(f"{printable(first)}, {printable(second)}", cells))
    print_columns(console, columns, "cosine between vectors")


def _print_metadata(inspection: Inspection, console: Console) -> None:
    if not inspection.metadata:
        return
    table = _titled("metadata")
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in inspection.metadata.items():
        table.add_row(Text(printable(str(key))), Text(printable(str(value))))
    console.print(table)


def _titled(title: str) -> Table:
    """Return an empty table that is at least as wide as its title."""
    return Table(title=Text(title), title_justify="left", min_width=len(title) + 2)


def _number(value: float | None, form: str) -> str | None:
    if value is None:
        return None
    return "zero" if math.isnan(value) else format(value, form)


def _tokens(side: list[tuple[int, str, float]]) -> Text:
    return Text("  ".join(f"{show_spaces(text)} {z:+.1f}" for _, text, z in side))
