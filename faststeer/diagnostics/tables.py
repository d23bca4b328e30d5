"""Tables of an inspection for the terminal (rich)."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from faststeer.diagnostics.inspection import Inspection, LayerFacts
from faststeer.diagnostics.token_text import printable, show_spaces

_Cell = Callable[[LayerFacts], str | None]


def facts_table(inspection: Inspection) -> Table:
    """Return a table of norms, dose, separability and stability, with a row per layer.

    Columns that were not computed are left out.
    """
    table = _titled(f"{printable(inspection.name)} at {inspection.site}")
    table.add_column("layer", justify="right")
    columns: dict[str, _Cell] = {
        "norm": lambda facts: f"{facts.norm:.4g}",
        "residual norm": lambda facts: _number(facts.residual_norm, ".4g"),
        f"dose at {inspection.coefficient:+g}": lambda facts: _number(facts.dose, ".1%"),
        "AUC of the vector": lambda facts: _number(facts.auc, ".3f"),
        "AUC held out": lambda facts: _number(facts.held_out_auc, ".3f"),
        "cosine of halves": lambda facts: _number(facts.stability, ".3f"),
    }
    first = next(iter(inspection.layers.values()))
    shown = {name: cell for name, cell in columns.items() if cell(first) is not None}
    table.add_column("norm", justify="right")
    several = len(inspection.layers) > 1
    if several:
        table.add_column("cosine to the previous layer", justify="right")
    for name in shown:
        if name != "norm":
            table.add_column(name, justify="right")
    for number, (layer, facts) in enumerate(inspection.layers.items()):
        before = float(inspection.cosines[number, number - 1]) if number else None
        cells = [cell(facts) or "" for cell in shown.values()]
        cosine = [_number(before, ".3f") or ""] if several else []
        table.add_row(str(layer), cells[0], *cosine, *cells[1:])
    return table


def lens_table(inspection: Inspection) -> Table | None:
    """Return a table of the tokens promoted and suppressed per layer; None without a logit lens."""
    if not any(facts.lens for facts in inspection.layers.values()):
        return None
    table = _titled("logit lens: tokens and the change of their logits in standard deviations")
    table.add_column("layer", justify="right")
    table.add_column("promoted", ratio=1)
    table.add_column("suppressed", ratio=1)
    for layer, facts in inspection.layers.items():
        if facts.lens is not None:
            sides = (facts.lens.promoted, facts.lens.suppressed)
            table.add_row(str(layer), *(_tokens(side) for side in sides))
    return table


def between_table(inspection: Inspection) -> Table | None:
    """Return a table of the cosines between vectors per layer; None without other vectors."""
    if not inspection.between:
        return None
    table = _titled("cosine between vectors")
    table.add_column("layer", justify="right")
    for first, second in inspection.between:
        table.add_column(Text(f"{printable(first)}, {printable(second)}"), justify="right")
    for layer in next(iter(inspection.between.values())):
        cells = (_number(cosines[layer], "+.3f") or "" for cosines in inspection.between.values())
        table.add_row(str(layer), *cells)
    return table


def metadata_table(inspection: Inspection) -> Table | None:
    """Return a table of the vector's metadata; None without metadata."""
    if not inspection.metadata:
        return None
    table = _titled("metadata")
    table.show_header = False
    for key, value in inspection.metadata.items():
        table.add_row(Text(printable(str(key))), Text(printable(str(value))))
    return table


def _titled(title: str) -> Table:
    """Return an empty table that is at least as wide as its title."""
    return Table(title=Text(title), min_width=len(title) + 2)


def _number(value: float | None, form: str) -> str | None:
    if value is None:
        return None
    return "zero" if math.isnan(value) else format(value, form)


def _tokens(side: list[tuple[int, str, float]]) -> Text:
    return Text("  ".join(f"{show_spaces(text)} {z:+.1f}" for _, text, z in side))
